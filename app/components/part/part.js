// A part of a long lesson that is not drawn yet: tells the page when it is its turn.
//
// Draws nothing itself; the page has words and a button in its place. data: {ids: of the cells in it}.
// One part at a time is asked for: the one that the address or a link names (#id), else the one nearest to what is in
// sight; those that are far away once the browser has nothing else to do, so that soon everything is there to be
// searched, printed and reached with the keyboard. Whoever is on its button is not disturbed, and finds the focus on
// the part's first heading when it has come.

const NEAR_SCREENS = 1.5
const PATIENCE_MS = 8000  // another run of the page may have swallowed the question
const REST_MS = 120       // between two parts: the browser draws, and answers whoever is typing or pressing
const waiting = new Map() // root -> {ids, ask, box}
let asked = null, since = 0, timer = 0

/** What stands in the part's place on the page: the keyed container around the component. */
const boxOf = (root) => (root.getRootNode().host ?? root).closest('[class*="-waiting"]')

/** How many screens away a part is; 0 in sight, Infinity where it is not displayed. */
function away(box) {
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
    const far = away(part.box)
    if (part.box.contains(document.activeElement)) continue
    if (best === null || far < least) { best = part; least = far }
  }
  return { part: best, soon: least < NEAR_SCREENS }
}

function look() {
  timer = 0
  if (!waiting.size) return
  if (asked && waiting.has(asked.root) && Date.now() - since < PATIENCE_MS) return again()
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

/** The button of a part was pressed: what comes in its place takes the focus, which would be lost with the button. */
document.addEventListener("click", (event) => {
  const box = event.target.closest?.('[class*="-waiting"]')
  const part = [...waiting.values()].find((one) => one.box === box)
  if (!part) return
  const until = Date.now() + PATIENCE_MS
  const find = () => {
    const heading = document.getElementById(part.ids[0])
    if (heading) {
      if (!heading.hasAttribute("tabindex")) heading.setAttribute("tabindex", "-1")
      heading.focus({ preventScroll: true })
    } else if (Date.now() < until) setTimeout(find, 100)
  }
  find()
})

export default function ({ data, parentElement, setTriggerValue }) {
  const root = parentElement
  waiting.set(root, { root, ids: data.ids, box: boxOf(root), ask: () => setTriggerValue("near", true) })
  again()
  return () => { waiting.delete(root); again() }
}
