// Node-RED without its editor, for the bench of rules.
module.exports = {
  flowFile: 'flows.json',
  httpAdminRoot: false,
  httpNodeRoot: false,
  uiPort: 0,
  mqttReconnectTime: 200,
  telemetry: { enabled: false },
  logging: { console: { level: 'warn' } }
}
