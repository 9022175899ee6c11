// A till: it reads a customer's message per line of standard input, and prints the label.
//
//   node till.js unix:/run/edge-agent/inference.sock --review unix:/run/edge-agent/review.sock
//   node till.js shop.example:9443 --tls till-3     # the folder that 'sudo edge-agent certs issue' made
//
// '= LABEL' corrects the last answer, '? TEXT' lets the assistant write, '# TEXT' asks all questions of the front desk.
// '--proto DIR' names the API's files.
import { exit, stderr, stdin, stdout } from 'node:process'
import { createInterface } from 'node:readline'
import { parseArgs } from 'node:util'
import { CallFailed, Daemon, SetupFailed } from './daemon.js'

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    review: { type: 'string' },
    tls: { type: 'string' },
    proto: { type: 'string' },
    task: { type: 'string', default: 'pos-intent' },
    assistant: { type: 'string', default: 'assistant' },
    desk: { type: 'string', default: 'front-desk' },
  },
})
const daemon = connect()
let last

function connect() {
  try {
    return new Daemon(positionals[0] ?? 'unix:/run/edge-agent/inference.sock', values)
  } catch (error) {
    if (!(error instanceof SetupFailed)) throw error
    stderr.write(`error: ${error.message}\nwhat to do: ${error.remedy}\n`)
    exit(1)
  }
}

// Why an answer is limited, e.g. because the CPU computed it instead of the GPU. Log it.
const degraded = ({ degraded: reasons }) => (reasons.length ? ` (degraded: ${reasons.join(', ')})` : '')

async function answer(line) {
  if (line.startsWith('? ')) {
    let note = ''
    for await (const piece of daemon.generate(values.assistant, line.slice(2))) {
      if (typeof piece === 'string') stdout.write(piece)
      else note = degraded(piece.finish.provenance)
    }
    return note
  }
  if (line.startsWith('= ')) {
    if (last === undefined) return 'There is no answer to correct yet: enter a message first.'
    await daemon.correct(last.provenance.prediction_id, line.slice(2), 'till')
    return 'noted'
  }
  if (line.startsWith('# ')) {
    const answers = await daemon.decide(values.desk, line.slice(2), [], 30_000)
    return answers.map((each) => `${each.question}: ${graded(each)}`).join(', ')
  }
  last = await daemon.classify(values.task, line, 30_000)
  return graded(last)
}

// The label, its confidence, and what limits it. Without a label the model abstained.
function graded({ label, confidence, provenance }) {
  // The answer of a large model alone has no confidence. If an answer is unsure, let a person decide.
  const sure = confidence ? ` ${confidence.value.toFixed(2)}${confidence.below_threshold ? ' unsure' : ''}` : ''
  return `${label || 'no answer'}${sure}${degraded(provenance)}`
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
