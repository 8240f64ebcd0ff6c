// MQTT.js publishes in a loop to a subscriber in the same process: node burst.js PORT QOS COUNT SECONDS. Prints
// how many messages were done with (acknowledged, at QoS 1) and how many came, once all have or none comes.
const mqtt = require('mqtt')

const [port, qos, count, seconds] = process.argv.slice(2).map(Number)
const url = `mqtt://127.0.0.1:${port}`
let done = 0
let delivered = 0
let last = Date.now()

const subscriber = mqtt.connect(url)
subscriber.on('message', () => {
  delivered += 1
  last = Date.now()
})
subscriber.once('connect', () => subscriber.subscribe('burst/#', { qos }, publish))

function taken(error) {
  if (!error) done += 1
  last = Date.now()
}

function publish() {
  const publisher = mqtt.connect(url)
  publisher.once('connect', () => {
    for (let number = 0; number < count; number++) {
      publisher.publish(`burst/${number % 10}`, 'x'.repeat(100), { qos }, taken)
    }
    last = Date.now()
    setInterval(() => {
      if ((delivered < count || done < count) && Date.now() - last < 1000 * seconds) return
      console.log(JSON.stringify({ acknowledged: done, delivered }))
      process.exit()
    }, 20)
  })
}
