// mqtt.js in a long conversation: 300 messages at each QoS, half of them after its connection was cut.
const mqtt = require('mqtt')

const port = Number(process.argv[2])
const options = { clientId: 'mqtt-js', clean: false, reconnectPeriod: 50, resubscribe: false }
const client = mqtt.connect(`mqtt://127.0.0.1:${port}`, options)
const wanted = 900
const seen = new Map()
let connects = 0

client.on('message', (topic, payload) => {
  const key = payload.toString()
  seen.set(key, (seen.get(key) || 0) + 1)
  const twice = [...seen.entries()].filter(([name, count]) => name.startsWith('2/') && count > 1)
  if (twice.length) throw new Error(`QoS 2 came twice: ${twice}`)
  if (seen.size === wanted) {
    console.log(`all ${seen.size} messages came, after ${connects} connects`)
    client.end()
  }
})

function publish (from, to) {
  for (let number = from; number < to; number++) {
    for (const qos of [0, 1, 2]) client.publish(`js/${number}`, `${qos}/${number}`, { qos })
  }
}

client.on('connect', () => {
  connects += 1
  if (connects === 1) {
    client.subscribe('js/#', { qos: 2 }, () => {
      publish(0, 150)
      setImmediate(waitForHalf)
    })
  } else if (connects === 2) {
    publish(150, 300)
  }
})

function waitForHalf () {
  if (seen.size < 450) return setTimeout(waitForHalf, 5)
  client.stream.destroy()
}

setTimeout(() => { console.error(`only ${seen.size} came`); process.exit(1) }, 55000).unref()
