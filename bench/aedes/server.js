// aedes on two ports of loopback, TCP and WebSocket: node server.js TCP WEBSOCKET
import { createServer as createHttpServer } from 'node:http'
import { createServer } from 'node:net'
import { Aedes } from 'aedes'
import { createWebSocketStream, WebSocketServer } from 'ws'

const [port, webSocketPort] = process.argv.slice(2).map(Number)
const aedes = await Aedes.createBroker()

// The keyword is what net.Server takes; the other brokers have Nagle's algorithm off as well.
createServer({ noDelay: true }, aedes.handle).listen(port, '127.0.0.1')

const http = createHttpServer()
const webSockets = new WebSocketServer({ server: http, perMessageDeflate: false })
webSockets.on('connection', (socket, request) => aedes.handle(createWebSocketStream(socket), request))
http.listen(webSocketPort, '127.0.0.1', () => console.log('ready'))
