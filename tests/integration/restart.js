// MQTT.js over a restart of the broker: a Session that outlives its connections gets what it publishes itself, at
// QoS 1 and 2. Says "half" when half of it is published, and in the end how much has come, and what came twice.
// Usage: node restart.js PORT COUNT
const mqtt = require('mqtt')

const [port, count] = process.argv.slice(2).map(Number)
const came = { 1: new Map(), 2: new Map() }
let published = 0
let connects = 0

const options = { clientId: 'mqtt-js-restart', clean: false, reconnectPeriod: 100 }
const client = mqtt.connect(`mqtt://127.0.0.1:${port}`, options)
client.on('error', () => {}) // nobody listens at the moment: it tries again by itself

client.on('connect', (connack) => {
  connects += 1
  if (connects === 1) return client.subscribe('restart/+', { qos: 2 }, publish)
  if (!connack.sessionPresent) throw new Error('the Session is gone')
})

client.on('message', (topic, payload) => {
  const found = came[topic.slice(-1)]
  found.set(String(payload), (found.get(String(payload)) || 0) + 1)
  if (came[1].size === count && came[2].size === count) setTimeout(end, 500)
})

function publish () {
  for (const qos of [1, 2]) client.publish(`restart/${qos}`, String(published), { qos })
  published += 1
  if (published === count / 2) console.log('half')
  if (published < count) setTimeout(publish, 5)
}

function end () {
  const twice = [...came[2].values()].filter((times) => times > 1).length
  console.log(`${came[1].size} and ${came[2].size} came, ${twice} of QoS 2 twice, after ${connects} connects`)
  process.exit(0)
}
