// MQTT.js: publish and receive at all three QoS levels. Usage: node websocket_client.js URL [PROTOCOL_VERSION]
const mqtt = require('mqtt')

const [url, version] = process.argv.slice(2)
const client = mqtt.connect(url, { reconnectPeriod: 0, protocolVersion: Number(version || 4), protocolId: version === '3' ? 'MQIsdp' : 'MQTT' })
const wanted = ['0', '1', '2', 'x'.repeat(200000)]
const received = []

client.on('error', (error) => { console.error(error); process.exit(1) })
client.on('connect', () => client.subscribe('js/#', { qos: 2 }, () => {
  for (const qos of [0, 1, 2]) client.publish(`js/${qos}`, String(qos), { qos })
  client.publish('js/large', 'x'.repeat(200000), { qos: 1 })
}))
client.on('message', (topic, payload, packet) => {
  received.push(payload.toString())
  if (received.length === wanted.length) {
    received.sort()
    const same = JSON.stringify(received) === JSON.stringify(wanted.sort())
    console.log(same ? 'all received' : 'wrong')
    // Not at once: MQTT.js sends the PUBCOMP of this message only after we were told of it.
    setImmediate(() => client.end(false, {}, () => process.exit(same ? 0 : 1)))
  }
})
setTimeout(() => { console.error('time is over', received.length); process.exit(1) }, 55000)
