// Node-RED without its editor, which writes what it gets at red/# to the file GOT.
module.exports = {
  flowFile: 'flows.json',
  httpAdminRoot: false,
  httpNodeRoot: false,
  mqttReconnectTime: 200,
  telemetry: { enabled: false },
  logging: { console: { level: 'info' } }
}
