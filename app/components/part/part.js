// A part of a long lesson that is not drawn yet: tells the page when it is its turn.
//
// Draws nothing itself; the page has words in its place. data: {ids: of the cells in it}.
// One part at a time is asked for: the one that the address or a link names (#id), else the one nearest to what is in
// sight; those that are far away once the browser has nothing else to do, so that soon everything is there to be
// searched, printed and reached with the keyboard.
// None is asked for while a script runs: with Streamlit 1.67 a fragment that grew right behind another's run ended the
// page ("Bad delta path index"), perhaps since the first one is cleaned up under the number of the second (#16708).

const NEAR_SCREENS = 1.5
const PATIENCE_MS = 8000  // another run of the page may have swallowed the question
const REST_MS = 120       // between two parts: the browser draws, and answers whoever is typing or pressing
const RUNNING = "[data-testid=stApp][data-test-script-state=running]"
const waiting = new Map() // root -> {root, ids, ask}
let asked = null, since = 0, timer = 0

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

function look() {
  timer = 0
  if (!waiting.size) return
  if (asked && waiting.has(asked.root) && Date.now() - since < PATIENCE_MS) return again()
  if (document.querySelector(RUNNING)) return again()
  const { part, soon } = turn()
  if (!part) return again()
  const ask = () => {
    if (!waiting.has(part.root)) return again()
    asked = part
    since = Date.now()
    part.ask()
    again()
  }
  if (soon || !window.requestIdleCallback) ask()
  else requestIdleCallback(ask, { timeout: 1500 })
}

function again() {
  if (!timer && waiting.size) timer = setTimeout(look, REST_MS)
}

export default function ({ data, parentElement, setTriggerValue }) {
  const root = parentElement
  waiting.set(root, { root, ids: data.ids, ask: () => setTriggerValue("near", true) })
  again()
  return () => { waiting.delete(root); again() }
}
