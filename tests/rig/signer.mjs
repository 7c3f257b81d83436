// A third-party NIP-46 signer (applesauce-signers) whose operator and whose faults a test directs.
//
//   node signer.mjs RELAY_URL USER_SECRET SIGNER_SECRET SETTINGS
//
// The secrets are hex and thrown away; SETTINGS is a JSON object of the keys of `settings` below. Standard output: first
// the bunker:// URI, then one JSON object a line of what happens. Standard input, a line each: "approve", "deny" (the
// operator's answer to the oldest prompt), a nostrconnect:// URI (the operator scans it), or a JSON object (new settings).
import readline from 'node:readline'
import { randomBytes } from 'node:crypto'
import WebSocket from 'ws'
import { NostrConnectProvider, PrivateKeySigner } from 'applesauce-signers'
import { RelayPool } from 'applesauce-relay'
import { getHiddenContent } from 'applesauce-core/helpers'
import { finalizeEvent, nip44 } from 'nostr-tools'
import { Relay, useWebSocketImplementation } from 'nostr-tools/relay'

globalThis.WebSocket ??= WebSocket
useWebSocketImplementation(WebSocket)

const [relay, userSecret, signerSecret, given] = process.argv.slice(2)
const settings = {
  secret: 'secret-of-the-uri',
  client: null,                      // a client's public key that is paired already
  mode: 'allow',                     // allow | deny | prompt
  methods: ['connect', 'nip44_decrypt'], // those that mode and fault are about
  fault: 'none',
  ...JSON.parse(given ?? '{}'),
}
const bytes = hex => new Uint8Array(Buffer.from(hex, 'hex'))
const say = event => console.log(JSON.stringify(event))
const stranger = () => new Uint8Array(randomBytes(32))
const prompts = []

async function ask(method) {
  say({ asked: method })
  if (!settings.methods.includes(method) || settings.mode === 'allow') return true
  return settings.mode === 'prompt' && new Promise(answer => prompts.push(answer))
}

// An event of our own making. `late`: seconds that its stamp is off.
async function publish(client, text, { key = bytes(signerSecret), content, late = 0 } = {}) {
  content ??= nip44.encrypt(text, nip44.getConversationKey(key, client))
  const created_at = Math.floor(Date.now() / 1000) + late
  const event = finalizeEvent({ kind: 24133, content, created_at, tags: [['p', client]] }, key)
  const connection = await Relay.connect(relay)
  await connection.publish(event).catch(error => say({ refused: String(error) }))
  connection.close()
}

function altered(client, text) {
  const sealed = Buffer.from(nip44.encrypt(text, nip44.getConversationKey(bytes(signerSecret), client)), 'base64')
  sealed[40] ^= 1
  return sealed.toString('base64')
}

async function noise(client, answer) {
  await publish(client, null, { content: 'bm90IG5pcC00NA==' })
  await publish(client, '{not json')
  await publish(client, JSON.stringify({ id: 'ffffffff', result: 'nobody asked' }))
  await publish(client, JSON.stringify({ ...answer, result: 'forged' }), { key: stranger() })
}

// What goes out instead of `answer`; `send` is the library's own way.
const FAULTS = {
  none: ({ answer, send }) => send(answer),
  silent: () => {},
  duplicate: async ({ answer, send }) => { await send(answer); await send(answer) },
  noise_then_ok: async ({ client, answer, send }) => { await noise(client, answer); await send(answer) },
  error_then_ok: async ({ answer, send }) => { await send({ id: answer.id, result: '', error: 'try later' }); await send(answer) },
  error_as_result: ({ answer, send }) => send({ id: answer.id, result: 'error', error: 'user rejected' }),
  auth_url: async ({ answer, send }) => {
    for (let i = 0; i < 2; i++) await send({ id: answer.id, result: 'auth_url', error: settings.url ?? 'https://127.0.0.1:9/approve' })
    if (!settings.never) await send(answer)
  },
  wrong_id: ({ answer, send }) => send({ ...answer, id: randomBytes(4).toString('hex') }),
  wrong_result: ({ answer, send }) => send({ id: answer.id, result: settings.result ?? 'deadbeef'.repeat(8) }),
  empty_result: ({ client, answer }) => publish(client, JSON.stringify({ id: answer.id, result: '' })),
  null_result: ({ client, answer }) => publish(client, JSON.stringify({ id: answer.id, result: null })),
  no_result: ({ client, answer }) => publish(client, JSON.stringify({ id: answer.id })),
  number_result: ({ client, answer }) => publish(client, JSON.stringify({ id: answer.id, result: 42 })),
  object_result: ({ client, answer }) => publish(client, JSON.stringify({ id: answer.id, result: { plaintext: answer.result } })),
  huge_result: ({ answer, send }) => send({ id: answer.id, result: 'A'.repeat(40000) }),
  not_object: ({ client }) => publish(client, '[]'),
  bad_json: ({ client }) => publish(client, '{not json'),
  bad_cipher: ({ client }) => publish(client, null, { content: 'bm90IG5pcC00NA==' }),
  bad_mac: ({ client, answer }) => publish(client, null, { content: altered(client, JSON.stringify(answer)) }),
  impostor: ({ client, answer }) => publish(client, JSON.stringify(answer), { key: stranger() }),
  old_stamp: ({ client, answer }) => publish(client, JSON.stringify(answer), { late: -3 * 86400 }),
  future_stamp: ({ client, answer }) => publish(client, JSON.stringify(answer), { late: 2 * 3600 }),
}

const user = new PrivateKeySigner(bytes(userSecret)), signer = new PrivateKeySigner(bytes(signerSecret))
const pool = new RelayPool()
// It tells of each challenge twice, and a relay takes one answer: refused the second time, it would believe itself a stranger.
let answered
pool.relay(relay).challenge$?.subscribe(challenge => {
  if (!challenge || challenge === answered) return
  answered = challenge
  pool.relay(relay).authenticate(signer).catch(error => say({ refused: String(error) }))
})
let provider

function make(bunkerSecret) {
  provider = new NostrConnectProvider({
    relays: [relay], pool, upstream: user, signer, bunkerSecret,
    onConnect: () => ask('connect'),
    onNip44Decrypt: () => ask('nip44_decrypt'),
    onNip44Encrypt: () => ask('nip44_encrypt'),
    onSignEvent: () => ask('sign_event'),
    onClientConnect: client => say({ paired: client }),
    onLogout: client => say({ left: client }),
  })
  const send = provider.sendMessage.bind(provider)
  provider.sendMessage = (to, answer) => {
    const method = typeof to === 'string' ? 'connect' : JSON.parse(getHiddenContent(to)).method
    const client = typeof to === 'string' ? to : to.pubkey
    const fault = settings.methods.includes(method) ? settings.fault : 'none'
    say({ answers: method, fault })
    return FAULTS[fault]({ client, answer, send: message => send(to, message) })
  }
  if (settings.client) Object.assign(provider, { client: settings.client, connected: true })
  return provider
}

process.on('unhandledRejection', error => say({ unhandled: String(error?.message ?? error) }))
await make(settings.secret).start()
console.log(await provider.getBunkerURI())
for await (const line of readline.createInterface({ input: process.stdin })) {
  if (line === 'approve' || line === 'deny') prompts.shift()?.(line === 'approve')
  else if (line.startsWith('nostrconnect://')) {
    await provider.stop()
    make().start(line).catch(error => say({ failed: String(error?.message ?? error) }))
  } else if (line.startsWith('{')) {
    Object.assign(settings, JSON.parse(line))
    say({ settings })
  }
}
process.exit(0)
