"""Receiver: a FrameReceiver that keeps what it is told."""


class Receiver:
    """A Receiver keeps what a bus tells it.

    :ivar frames: pairs of the daemon that has sent a frame, and the frame.
    :ivar gaps: daemons of which some frames were lost, in the order in which that was told.
    """

    def __init__(self) -> None:
        self.frames: list[tuple[int, bytes]] = []
        self.gaps: list[int] = []

    def frame(self, origin: int, frame: bytes) -> None:
        self.frames.append((origin, frame))

    def lost(self, origin: int) -> None:
        self.gaps.append(origin)
