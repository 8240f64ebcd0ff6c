// Clients of MQTT.js with MQTT 5, driven by lines of JSON: [client, command, arguments] on standard input, and
// [client, "done" or "message", value] on standard output. Bytes are Latin-1.
const mqtt = require('mqtt')
const readline = require('readline')

const clients = {}

const commands = {
  start (id, say, { port, filters, clean, expiry, will }) {
    const client = clients[id] = mqtt.connect(`mqtt://127.0.0.1:${port}`, {
      clientId: id,
      clean,
      will,
      protocolVersion: 5,
      reconnectPeriod: 0,
      properties: { sessionExpiryInterval: expiry, topicAliasMaximum: 10 }
    })
    client.on('error', (error) => say('done', error.message))
    client.on('message', (topic, payload, { qos, retain, properties = {} }) => {
      const { topicAlias, ...more } = properties
      if (more.correlationData) more.correlationData = more.correlationData.toString('latin1')
      say('message', { topic, payload: payload.toString('latin1'), qos, retain, properties: more })
    })
    client.on('connect', () => {
      if (!filters.length) return say('done', '')
      client.subscribe(filters, { qos: 2 }, (error) => say('done', error ? error.message : ''))
    })
  },
  publish (id, say, { topic, payload, qos, retain, properties }) {
    if (properties.correlationData) properties.correlationData = Buffer.from(properties.correlationData, 'latin1')
    clients[id].publish(topic, Buffer.from(payload, 'latin1'), { qos, retain, properties }, (error, packet) => {
      say('done', error ? `${error.message}: ${packet.properties && packet.properties.reasonString}` : '')
    })
  },
  cut (id, say) {
    clients[id].once('close', () => say('done', ''))
    clients[id].stream.destroy()
  },
  stop (id, say) {
    clients[id].end(false, {}, () => say('done', ''))
  }
}

readline.createInterface({ input: process.stdin }).on('line', (line) => {
  const [id, command, given] = JSON.parse(line)
  commands[command](id, (kind, value) => process.stdout.write(JSON.stringify([id, kind, value]) + '\n'), given)
})
