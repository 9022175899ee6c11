// What a device needs of edge-agent's gRPC: connecting, deadlines, errors that say when to try again, streams that end.
import { randomUUID } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import grpc from '@grpc/grpc-js'
import protoLoader from '@grpc/proto-loader'
import protobuf from 'protobufjs'

const here = (path) => fileURLToPath(new URL(path, import.meta.url))
const { v1: api } = grpc.loadPackageDefinition(
  protoLoader.loadSync(['edge_agent/v1/inference.proto', 'edge_agent/v1/feedback.proto'], {
    includeDirs: [here('../../proto')], // in a project of your own: a copy of proto/
    keepCase: true,
    enums: String,
    defaults: true,
    oneofs: true,
  }),
).edge_agent
const details = protobuf.loadSync(here('status.proto'))

// Between tries, where the daemon names no delay: twice as long each time.
const PAUSE_MS_FIRST = 100
const PAUSE_MS_MAX = 2000

const CHANNEL = {
  // A daemon that is started anew is found at once; gRPC's own waits grow to two minutes.
  'grpc.initial_reconnect_backoff_ms': PAUSE_MS_FIRST,
  'grpc.max_reconnect_backoff_ms': PAUSE_MS_MAX,
  'grpc.enable_http_proxy': 0, // a proxy for the Internet knows no daemon in the building
}

/** A call that got no answer: `reason` is stable and to be tested for, `remedy` says what to do. */
export class CallFailed extends Error {
  constructor(error) {
    const [info, retry] = ['ErrorInfo', 'RetryInfo'].map((name) => detail(error, name))
    super(error.details || error.message)
    this.code = grpc.status[error.code]
    this.reason = info?.reason ?? this.code
    this.remedy = info?.metadata?.remedy ?? ''
    this.retryAfterMs = retry && 1000 * Number(retry.retryDelay?.seconds ?? 0) + (retry.retryDelay?.nanos ?? 0) / 1e6
    // The same call may be answered later: the daemon says so, or no daemon was reached.
    this.passing = retry !== undefined || (info === undefined && error.code === grpc.status.UNAVAILABLE)
  }
}

function detail(error, name) {
  const [raw] = error.metadata?.get('grpc-status-details-bin') ?? []
  if (raw === undefined) return undefined
  const status = details.lookupType('google.rpc.Status').decode(raw)
  const found = status.details.find((any) => any.type_url.endsWith(`/google.rpc.${name}`))
  return found && details.lookupType(`google.rpc.${name}`).decode(found.value)
}

/** One daemon: `address` is unix:/path or host:port. `tls` is a folder of `edge-agent certs issue`. */
export class Daemon {
  constructor(address, { review = address, tls } = {}) {
    const pem = (name) => readFileSync(join(tls, name))
    const credentials = tls
      ? grpc.credentials.createSsl(pem('ca.crt'), pem('client.key'), pem('client.crt'))
      : grpc.credentials.createInsecure()
    this.inference = new api.InferenceService(address, credentials, CHANNEL)
    this.feedback = new api.FeedbackService(review, credentials, CHANNEL)
  }

  close() {
    this.inference.close()
    this.feedback.close()
  }

  /** Choose a label. The request_id lets the daemon answer a repeated call from memory instead of computing it twice. */
  async classify(task, text, timeoutMs = 10_000) {
    const request = { task, texts: [text], request_id: randomUUID() }
    const { results } = await this.#call(this.inference, 'Classify', request, timeoutMs)
    return results[0].classification // of several texts each has its own classification or error
  }

  /** Say which label would have been right. On the daemon's disk once this returns. */
  async correct(predictionId, label, reviewer, timeoutMs = 10_000) {
    const request = { prediction_id: predictionId, corrected_label: label, reviewer, request_id: randomUUID() }
    await this.#call(this.feedback, 'SubmitFeedback', request, timeoutMs)
  }

  /** Yield a text piece by piece. Leaving the loop, however, cancels the call, and the model stops. */
  async *generate(task, text, timeoutMs = 60_000) {
    const stream = this.inference.Generate({ task, text }, { deadline: Date.now() + timeoutMs })
    try {
      for await (const message of stream) if (message.event === 'text') yield message.text
    } catch (error) {
      throw new CallFailed(error)
    } finally {
      stream.cancel()
    }
  }

  /** Make a call until it is answered, it is no use, or its time is over, which is for all tries together. */
  async #call(client, method, request, timeoutMs) {
    const deadline = Date.now() + timeoutMs
    for (let pauseMs = PAUSE_MS_FIRST; ; pauseMs = Math.min(2 * pauseMs, PAUSE_MS_MAX)) {
      try {
        return await new Promise((resolve, reject) => {
          client[method](request, { deadline }, (error, answer) => (error ? reject(error) : resolve(answer)))
        })
      } catch (error) {
        const failed = new CallFailed(error)
        // Not before the daemon says; a little later by chance, so that tills that failed together come back one by one.
        const waitMs = Math.max(pauseMs, failed.retryAfterMs ?? 0) * (1 + Math.random() / 5)
        if (!failed.passing || Date.now() + waitMs >= deadline) throw failed
        await sleep(waitMs)
      }
    }
  }
}
