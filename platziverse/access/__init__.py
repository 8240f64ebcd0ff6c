"""Access: who may connect, and who may publish and subscribe to what."""
