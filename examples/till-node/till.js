// A till that understands its customers: each line of standard input is what one says, and the label comes back.
//
//   node till.js unix:/run/edge-agent/inference.sock --review unix:/run/edge-agent/review.sock
//   node till.js shop.example:9443 --tls till-3     # the folder that 'edge-agent certs issue' made
//
// '= LABEL' corrects the last answer, '? TEXT' lets the assistant write.
import { stdin, stdout } from 'node:process'
import { createInterface } from 'node:readline'
import { parseArgs } from 'node:util'
import { CallFailed, Daemon } from './daemon.js'

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    review: { type: 'string' },
    tls: { type: 'string' },
    task: { type: 'string', default: 'pos-intent' },
    assistant: { type: 'string', default: 'assistant' },
  },
})
const daemon = new Daemon(positionals[0] ?? 'unix:/run/edge-agent/inference.sock', values)
let last

async function answer(line) {
  if (line.startsWith('? ')) {
    for await (const piece of daemon.generate(values.assistant, line.slice(2))) stdout.write(piece)
    return ''
  }
  if (line.startsWith('= ')) {
    await daemon.correct(last.provenance.prediction_id, line.slice(2), 'till')
    return 'noted'
  }
  last = await daemon.classify(values.task, line, 30_000)
  const { value, below_threshold: unsure } = last.confidence
  return `${last.label} ${value.toFixed(2)}${unsure ? ' unsure' : ''}` // unsure: let a person decide
}

for await (const line of createInterface({ input: stdin })) {
  try {
    console.log(await answer(line))
  } catch (error) {
    if (!(error instanceof CallFailed)) throw error
    console.log(`${error.reason}: ${error.message}. ${error.remedy}`)
  }
}
daemon.close()
