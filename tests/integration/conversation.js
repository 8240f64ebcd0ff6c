// MQTT.js in a long conversation: 1,000 topics at every QoS over a Session that outlives its connection, then
// Retained Messages and a Will. Usage: node conversation.js PORT
const mqtt = require('mqtt')

const url = `mqtt://127.0.0.1:${process.argv[2]}`
const TOPICS = 1000
const BATCH = 50
const seen = new Map()
let connects = 0
let published = 0
let told = () => {}

const client = mqtt.connect(url, { clientId: 'mqtt-js', clean: false, reconnectPeriod: 50, resubscribe: false })

client.on('message', (topic, payload) => {
  const key = `${topic} ${payload}`
  seen.set(key, (seen.get(key) || 0) + 1)
  if (key.startsWith('js/2/') && seen.get(key) > 1) throw new Error(`QoS 2 came twice: ${key}`)
  if (topic === 'will/js') told(payload.toString())
  if (seen.size === published * 3 && published < TOPICS) more()
  if (seen.size === published * 3 && published === TOPICS) retained()
})

client.on('connect', (connack) => {
  connects += 1
  if (connects === 1) client.subscribe({ 'js/#': { qos: 2 }, 'will/#': { qos: 1 } }, more)
  else if (!connack.sessionPresent) throw new Error('the Session is gone')
  else more()
})

function more () {
  if (published === TOPICS / 2 && connects === 1) return client.stream.destroy()
  const end = published + BATCH
  for (; published < end; published++) {
    for (const qos of [0, 1, 2]) client.publish(`js/${qos}/${published}`, String(published), { qos })
  }
}

function retained () {
  console.log(`all ${seen.size} messages came, after ${connects} connects`)
  for (let n = 0; n < 300; n++) client.publish(`kept/${n}`, String(n), { qos: n % 3, retain: true })
  client.publish('kept/7', '', { qos: 1, retain: true }, () => {
    const found = new Map()
    const other = mqtt.connect(url, { clientId: 'mqtt-js-2', will: { topic: 'will/js', payload: 'gone', qos: 1 } })
    other.on('connect', () => other.subscribe('kept/+', { qos: 2 }))
    other.on('message', (topic, payload, packet) => {
      found.set(topic, packet.retain)
      if (found.size < 299) return
      const good = !found.has('kept/7') && [...found.values()].every((retain) => retain)
      console.log(good ? 'all retained messages came' : 'wrong retained messages')
      told = (text) => { console.log(`its Will: ${text}`); client.end() }
      other.options.reconnectPeriod = 0
      other.stream.destroy()
    })
  })
}

setTimeout(() => { console.error(`only ${seen.size} came`); process.exit(1) }, 55000).unref()
