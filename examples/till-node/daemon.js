// A gRPC client for edge-agent: connections, deadlines, errors with a retry delay, cancelled streams.
import { randomUUID } from 'node:crypto'
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { env } from 'node:process'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import grpc from '@grpc/grpc-js'
import protoLoader from '@grpc/proto-loader'
import protobuf from 'protobufjs'

const here = (path) => fileURLToPath(new URL(path, import.meta.url))
const SERVICES = ['edge_agent/v1/inference.proto', 'edge_agent/v1/feedback.proto']
// Folders of the API's files: a copy next to this program, a checkout, the installed appliance.
const PROTO_FOLDERS = [here('proto'), here('../../proto'), '/opt/edge-agent/current/share/proto']

/** A problem on this machine that prevents all calls: `message` is the cause, `remedy` what to do. */
export class SetupFailed extends Error {
  constructor(message, remedy) {
    super(message)
    this.remedy = remedy
  }
}

function loadApi(named = env.EDGE_AGENT_PROTO) {
  const folders = named ? [named] : PROTO_FOLDERS
  const found = folders.find((folder) => existsSync(join(folder, SERVICES[0])))
  if (found === undefined) {
    const remedy = "Copy the folder 'proto' of edge-agent next to daemon.js, or name it in EDGE_AGENT_PROTO."
    throw new SetupFailed(`${SERVICES[0]} is not in ${folders.join(', ')}`, remedy)
  }
  const options = { includeDirs: [found], keepCase: true, enums: String, defaults: true, oneofs: true }
  return grpc.loadPackageDefinition(protoLoader.loadSync(SERVICES, options)).edge_agent.v1
}

const details = protobuf.loadSync(here('status.proto'))

// Pause between tries if the daemon names no delay; it doubles.
const PAUSE_MS_FIRST = 100
const PAUSE_MS_MAX = 2000

const CHANNEL = {
  // Short pauses, to reconnect soon after a restart of the daemon; gRPC's own grow to two minutes.
  'grpc.initial_reconnect_backoff_ms': PAUSE_MS_FIRST,
  'grpc.max_reconnect_backoff_ms': PAUSE_MS_MAX,
  'grpc.enable_http_proxy': 0, // a proxy for the Internet cannot reach a daemon in the building
}

// gRPC's text for a failed handshake, the cause, and the remedy. The first match counts.
const SHOW = "'edge-agent certs show FILE' shows what is in a certificate."
const TLS_FAULTS = [
  [
    /certificate has expired/,
    "the server's certificate has expired, or this machine's clock is wrong",
    "Compare 'date' here with the time. If it is right, run 'sudo edge-agent certs server --renew' over there.",
  ],
  [
    /not yet valid/,
    "the server's certificate is not valid yet, so this machine's clock or the one that issued it is wrong",
    "Compare 'date' here and on the server's machine with the time, and set the clock that is wrong.",
  ],
  [
    /unable to (verify|get)|self.signed/,
    "the server's certificate was not issued by the authority in ca.crt",
    'Take the ca.crt of the site that the server belongs to.',
  ],
  [
    /altnames/,
    "the server's certificate is for other names than that of the address",
    "Use a name that is in it, or have it issued with this name ('sudo edge-agent certs server --name NAME').",
  ],
  [
    /wrong version number/,
    'something answers there, but without TLS',
    "Leave the certificate out if that daemon is meant to be open ('insecure: true'); otherwise check the address.",
  ],
  [
    /Failed to connect|ECONNRESET|EPIPE|Connection dropped/,
    "the server ended the handshake: it does not accept this client's certificate",
    `Is it issued by the server's client authority, in date, and for clients? ${SHOW}`,
  ],
]
const NO_TLS = [
  'something answers there and hangs up: it expects a certificate, or is not an edge-agent',
  "Have a certificate issued for this client ('sudo edge-agent certs issue'), and name its folder with --tls.",
]

function tlsFault(details, address, tls) {
  const found = address.startsWith('unix:') ? undefined : TLS_FAULTS.find(([words]) => words.test(details))
  if (found === undefined) return undefined
  const [message, remedy] = tls ? found.slice(1) : NO_TLS
  return { reason: 'TLS_FAILED', message: `${address}: ${message}`, remedy }
}

/** A new connection refuses calls beyond its limit over HTTP/2, without details. */
function burstFault(details, address) {
  if (!/Stream refused by server/.test(details)) return undefined
  const message = `${address}: too many calls at once`
  return { reason: 'QUEUE_FULL', message, remedy: 'Try again in 1 s.', retryAfterMs: 1000 }
}

function retryAfterMs(retry) {
  return retry && 1000 * Number(retry.retryDelay?.seconds ?? 0) + (retry.retryDelay?.nanos ?? 0) / 1e6
}

/** A call without an answer: test for `reason`, which is stable; `remedy` is what to do. */
export class CallFailed extends Error {
  constructor(error, { address, tls, answered }) {
    const [info, retry] = ['ErrorInfo', 'RetryInfo'].map((name) => detail(error, name))
    const { UNAVAILABLE, CANCELLED } = grpc.status
    const bare = info === undefined && error.code === UNAVAILABLE
    const fault = bare ? (burstFault(error.details, address) ?? tlsFault(error.details, address, tls)) : undefined
    super(fault?.message ?? (error.details || error.message))
    this.code = grpc.status[error.code]
    this.reason = fault?.reason ?? info?.reason ?? this.code
    const remedy = info?.metadata?.remedy ?? (error.code === UNAVAILABLE ? `Is edge-agent running at ${address}?` : '')
    this.remedy = fault?.remedy ?? remedy
    this.retryAfterMs = fault?.retryAfterMs ?? retryAfterMs(retry)
    // A later try can succeed if the daemon named a delay, was not reached, or ended the call because it stopped. It cannot
    // after a TLS failure, except if this daemon answered before: then it is probably restarting.
    const lost = info === undefined && [UNAVAILABLE, CANCELLED].includes(error.code)
    this.retryable = this.retryAfterMs !== undefined || (lost && (fault === undefined || answered))
  }

  /** Add the number and the time of the tries, if a later one could have succeeded. */
  gaveUp(tries, ms) {
    const count = tries === 1 ? '1 try' : `${tries} tries`
    if (this.retryable) this.message += `; given up after ${count} in ${(ms / 1000).toFixed(1)} s`
    return this
  }
}

function detail(error, name) {
  const [raw] = error.metadata?.get('grpc-status-details-bin') ?? []
  if (raw === undefined) return undefined
  const status = details.lookupType('google.rpc.Status').decode(raw)
  const found = status.details.find((any) => any.type_url.endsWith(`/google.rpc.${name}`))
  return found && details.lookupType(`google.rpc.${name}`).decode(found.value)
}

function credentialsOf(tls) {
  if (!tls) return grpc.credentials.createInsecure()
  const pem = (name) => readFileSync(join(tls, name))
  try {
    return grpc.credentials.createSsl(pem('ca.crt'), pem('client.key'), pem('client.crt'))
  } catch (error) {
    const remedy = `Name the folder that 'sudo edge-agent certs issue' made: ca.crt, client.crt, client.key. ${SHOW}`
    throw new SetupFailed(`the files in ${tls} cannot be used: ${error.message}`, remedy)
  }
}

/**
 * One daemon: `address` is unix:/path or host:port. `tls` is a folder of `edge-agent certs issue`, `proto` the folder of
 * the API's files if it is not in PROTO_FOLDERS. Throws SetupFailed.
 */
export class Daemon {
  #answered = false

  constructor(address, { review = address, tls, proto } = {}) {
    const [api, credentials] = [loadApi(proto), credentialsOf(tls)]
    this.tls = tls
    this.inference = new api.InferenceService(address, credentials, CHANNEL)
    this.feedback = new api.FeedbackService(review, credentials, CHANNEL)
    this.addresses = new Map([[this.inference, address], [this.feedback, review]])
  }

  close() {
    this.inference.close()
    this.feedback.close()
  }

  /** Choose a label. The request_id lets the daemon answer a repeated call from memory instead of computing it twice. */
  async classify(task, text, timeoutMs = 10_000) {
    const request = { task, texts: [text], request_id: randomUUID() }
    const { results } = await this.#call(this.inference, 'Classify', request, timeoutMs)
    return results[0].classification // if there are several texts, each has its own classification or error
  }

  /** Answer the questions of a decide task, or those named. Each answer has its own prediction_id, which feedback names. */
  async decide(task, text, questions = [], timeoutMs = 10_000) {
    const request = { task, texts: [text], questions, request_id: randomUUID() }
    const { results } = await this.#call(this.inference, 'Decide', request, timeoutMs)
    return results[0].decision.answers
  }

  /** Correct the label of an answer. When this returns, the correction is on the daemon's disk. */
  async correct(predictionId, label, reviewer, timeoutMs = 10_000) {
    const request = { prediction_id: predictionId, corrected_label: label, reviewer, request_id: randomUUID() }
    await this.#call(this.feedback, 'SubmitFeedback', request, timeoutMs)
  }

  /** Yield a text piece by piece, and `{ finish }` last. Leaving the loop cancels the call, and the model stops. */
  async *generate(task, text, timeoutMs = 60_000) {
    const stream = this.inference.Generate({ task, text }, { deadline: Date.now() + timeoutMs })
    try {
      for await (const message of stream) yield message.event === 'text' ? message.text : { finish: message.finish }
    } catch (error) {
      throw this.#failed(this.inference, error)
    } finally {
      stream.cancel()
    }
  }

  /** Repeat a call until it has an answer, cannot succeed, or `timeoutMs`, which is for all tries together, is over. */
  async #call(client, method, request, timeoutMs) {
    const began = Date.now()
    const deadline = began + timeoutMs
    let pauseMs = PAUSE_MS_FIRST
    for (let tries = 1; ; tries += 1) {
      try {
        const answer = await new Promise((resolve, reject) => {
          client[method](request, { deadline }, (error, answer) => (error ? reject(error) : resolve(answer)))
        })
        this.#answered = true
        return answer
      } catch (error) {
        const failed = this.#failed(client, error)
        const leftMs = deadline - Date.now()
        // At least the daemon's delay; a random part, so that tills that failed together do not retry together; and at most
        // half of the remaining time, so that there is a try after a late restart of the daemon.
        const leastMs = failed.retryAfterMs ?? PAUSE_MS_FIRST
        const waitMs = Math.max(leastMs, Math.min(Math.max(pauseMs, leastMs) * (1 + Math.random() / 5), leftMs / 2))
        if (!failed.retryable || waitMs >= leftMs) throw failed.gaveUp(tries, Date.now() - began)
        await sleep(waitMs)
        pauseMs = Math.min(2 * pauseMs, PAUSE_MS_MAX)
      }
    }
  }

  #failed(client, error) {
    return new CallFailed(error, { address: this.addresses.get(client), tls: this.tls, answered: this.#answered })
  }
}
