// aedes on two ports of loopback, TCP and WebSocket: node server.js TCP WEBSOCKET [REDIS [shared]]; shared: several of them hear each other
import { createServer as createHttpServer } from 'node:http'
import { createServer } from 'node:net'
import { Aedes } from 'aedes'
import { createWebSocketStream, WebSocketServer } from 'ws'

const [port, webSocketPort, redisPort] = process.argv.slice(2).map(Number)
// By default a client that comes back gets 1,000 messages, and the others never.
const options = { port: redisPort, maxSessionDelivery: 10_000_000 }
const parts = redisPort ? { persistence: (await import('aedes-persistence-redis')).default(options) } : {}
if (process.argv[5] === 'shared') parts.mq = (await import('mqemitter-redis')).default({ port: redisPort })
const aedes = await Aedes.createBroker(parts)

// The keyword is what net.Server takes; the other brokers have Nagle's algorithm off as well.
createServer({ noDelay: true }, aedes.handle).listen(port, '127.0.0.1')

const http = createHttpServer()
const webSockets = new WebSocketServer({ server: http, perMessageDeflate: false })
webSockets.on('connection', (socket, request) => aedes.handle(createWebSocketStream(socket), request))
http.listen(webSocketPort, '127.0.0.1', () => console.log('ready'))
