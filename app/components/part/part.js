// A part of a long lesson that is not drawn yet: tells the page when it is its turn.
//
// Draws nothing itself; the page has words in its place. data: {ids: of the cells in it}.
// One part at a time is asked for: the one that the address or a link names (#id), else the one nearest to what is in
// sight; those that are far away once the browser has nothing else to do, so that soon everything is there to be
// searched, printed and reached with the keyboard.
// None is asked for while a script runs, and none twice. With Streamlit 1.67 a fragment that runs again before the
// browser has got its first run ends the page ("Bad delta path index"): of what is not sent yet, that first run's own
// elements are dropped, and those of the fragments within it are not.

const NEAR_SCREENS = 1.5
const PATIENCE_MS = 8000  // another run of the page may have swallowed the question
const REST_MS = 120       // between two parts: the browser draws, and answers whoever is typing or pressing
const BUSY = "[data-testid=stApp]:not([data-test-script-state=notRunning])" // running, or about to
const waiting = new Map() // root -> {root, ids, ask}
let asked = null, since = 0, timer = 0, planned = false

/** What stands in the part's place on the page: the keyed container around the component. */
const boxOf = (root) => (root.getRootNode().host ?? root).closest('[class*="-waiting"]')

/** How many screens away a part is; 0 in sight, Infinity where it is not displayed. */
function away(root) {
  const box = boxOf(root)
  if (!box) return Infinity
  const { top, bottom, height, width } = box.getBoundingClientRect()
  if (!height && !width) return Infinity
  return Math.max(0, top - innerHeight, -bottom) / (innerHeight || 1)
}

/** The part whose turn it is, and whether it can wait until the browser is idle. */
function turn() {
  let best = null, least = Infinity
  const id = decodeURIComponent(location.hash.slice(1))
  for (const part of waiting.values()) {
    if (id && part.ids.includes(id)) return { part, soon: true }
    const far = away(part.root)
    if (best === null || far < least) { best = part; least = far }
  }
  return { part: best, soon: least < NEAR_SCREENS }
}

/** Whether it is not the moment to ask: one has been asked for and is not there, or a script runs. */
function hold() {
  const open = asked && waiting.has(asked.root) && Date.now() - since < PATIENCE_MS
  return open || document.querySelector(BUSY) !== null
}

function look() {
  timer = 0
  if (planned || !waiting.size) return
  if (hold()) return again()
  const { part, soon } = turn()
  if (!part) return again()
  if (soon || !window.requestIdleCallback) return ask(part)
  planned = true
  requestIdleCallback(() => {
    planned = false
    if (waiting.has(part.root) && !hold()) ask(part)
    again()
  }, { timeout: 1500 })
}

function ask(part) {
  asked = part
  since = Date.now()
  part.ask()
  again()
}

function again() {
  if (!timer && !planned && waiting.size) timer = setTimeout(look, REST_MS)
}

export default function ({ data, parentElement, setTriggerValue }) {
  const root = parentElement
  waiting.set(root, { root, ids: data.ids, ask: () => setTriggerValue("near", true) })
  again()
  return () => { waiting.delete(root); again() }
}
