// mosca on a port of loopback, over Redis, as the original has it: node server.js TCP REDIS
const mosca = require('mosca')

const [port, redisPort] = process.argv.slice(2).map(Number)
const backend = redisPort
  ? { type: 'redis', redis: require('ioredis'), host: '127.0.0.1', port: redisPort, return_buffers: true, db: 0 }
  : {}
const server = new mosca.Server({ host: '127.0.0.1', port, backend, logger: { level: 'fatal' } })
server.on('ready', () => console.log('ready'))
