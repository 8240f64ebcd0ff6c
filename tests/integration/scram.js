// A login of MQTT.js by SCRAM-SHA-256 (RFC 5802, RFC 7677), with the hashes of Node.js, and its renewal.
// Usage: node scram.js PORT USER PASSWORD
const { createHash, createHmac, pbkdf2Sync, randomBytes } = require('crypto')
const mqtt = require('mqtt')

const [port, user, password] = process.argv.slice(2)
const METHOD = 'SCRAM-SHA-256'
const hmac = (key, text) => createHmac('sha256', key).update(text).digest()
const fields = (text) => Object.fromEntries(text.split(',').map((field) => [field[0], field.slice(2)]))
let bare, proven

function first () {
  bare = `n=${user},r=${randomBytes(18).toString('base64')}`
  return { authenticationMethod: METHOD, authenticationData: Buffer.from(`n,,${bare}`) }
}

function final (challenge) {
  const { r, s, i } = fields(challenge)
  if (!r.startsWith(fields(bare).r)) throw new Error('somebody else answers')
  const salted = pbkdf2Sync(password, Buffer.from(s, 'base64'), Number(i), 32, 'sha256')
  const clientKey = hmac(salted, 'Client Key')
  const message = `${bare},${challenge},c=biws,r=${r}`
  const signature = hmac(createHash('sha256').update(clientKey).digest(), message)
  const proof = clientKey.map((byte, at) => byte ^ signature[at])
  proven = `v=${hmac(hmac(salted, 'Server Key'), message).toString('base64')}`
  const data = Buffer.from(`c=biws,r=${r},p=${Buffer.from(proof).toString('base64')}`)
  return { cmd: 'auth', reasonCode: 24, properties: { authenticationMethod: METHOD, authenticationData: data } }
}

const knows = ({ properties }) => properties.authenticationData.toString() === proven
const client = mqtt.connect(`mqtt://127.0.0.1:${port}`, { protocolVersion: 5, reconnectPeriod: 0, properties: first() })

client.handleAuth = (packet, callback) => {
  if (packet.reasonCode === 24) return callback(null, final(packet.properties.authenticationData.toString()))
  console.log(`renewed, and the server knows the password: ${knows(packet)}`)
  callback()
  client.end()
}
client.on('connect', (connack) => {
  console.log(`connected, and the server knows the password: ${knows(connack)}`)
  client._sendPacket({ cmd: 'auth', reasonCode: 25, properties: first() })
})
client.on('error', (error) => { console.log(error.message); client.end(true) })
