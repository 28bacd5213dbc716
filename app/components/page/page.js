// What a page cannot say in Python: its language, its address, the element that a link leads to, and signs of life for
// the clock.
//
// Draws nothing. data: {lang, usual: the one that the address need not name, anew: whether to open the page anew in it,
// at, query: the address behind its question mark, beat: address to report to or "", every: seconds, search: address of
// the search page}.
// The clock (app/clock.py) is told that a lesson is being worked in: every few seconds, only while the page is in sight
// and something was done in it during the last minute. "/" goes to the search, unless one is typing.

const QUIET_MS = 60_000
let done = Date.now()
let report = ""
let timer = 0
let led = ""
let settled = ""
const visited = new Set()

for (const kind of ["keydown", "pointerdown", "pointermove", "wheel", "touchstart"])
  document.addEventListener(kind, () => { done = Date.now() }, { passive: true, capture: true })
document.addEventListener("scroll", () => { done = Date.now() }, { passive: true, capture: true })

function beat() {
  if (!report || document.visibilityState !== "visible" || Date.now() - done > QUIET_MS) return
  fetch(report, { method: "POST", keepalive: true }).catch(() => {})
}

/** Scroll to an element as soon as it is there, and give it the focus; the page is still being drawn. */
function lead(id) {
  const until = Date.now() + 8000
  let since = 0
  const look = () => {
    const found = document.getElementById(id)
    if (found) {
      found.scrollIntoView({ block: "start" })
      since ||= Date.now()
      if (Date.now() - since > 1500) {
        if (!found.hasAttribute("tabindex")) found.setAttribute("tabindex", "-1")
        found.focus({ preventScroll: true })
        return
      }
    }
    if (Date.now() < until) setTimeout(look, 200)
  }
  look()
}

// A link on the page to a cell that is not drawn yet (app/components/part).
addEventListener("hashchange", () => {
  const id = decodeURIComponent(location.hash.slice(1))
  if (id && !document.getElementById(id)) lead(id)
})

/** Whether a key goes into a text; the editor's is in a tree of its own, which event.target does not see into. */
function typing(event) {
  const target = event.composedPath()[0]
  return target?.isContentEditable || ["INPUT", "TEXTAREA", "SELECT"].includes(target?.tagName)
}

// A definition stays inside the window, and Escape puts it away until the pointer or the focus comes back.
function place(event) {
  const box = event.target.closest?.(".term-box")
  const text = box?.querySelector(".term-text")
  if (!text) return
  if (event.type === "focusin" || !box.contains(event.relatedTarget)) box.classList.remove("term-off")
  text.style.translate = ""
  const over = text.getBoundingClientRect().right - (document.documentElement.clientWidth - 12)
  if (over > 0) text.style.translate = `${-over}px`
}
document.addEventListener("pointerover", place)
document.addEventListener("focusin", place)
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return
  for (const box of document.querySelectorAll(".term-box:hover, .term-box:focus-within")) box.classList.add("term-off")
})

/** The address says what is shown. (A link of a page to itself changes that, and Streamlit leaves the address as it was.)
 *  Once for each query that Python tells: a part of the page may have put a later one into the address since. */
function settle(query) {
  const told = `${location.pathname} ${query}`
  if (told === settled) return
  settled = told
  const now = new URL(location.href), wanted = new URLSearchParams(query)
  for (const [name, value] of now.searchParams) if (name.startsWith("embed")) wanted.append(name, value)
  const sorted = (search) => [...search].map(String).sort().join("&")
  if (sorted(now.searchParams) === sorted(wanted)) return
  now.search = wanted.toString()
  history.pushState(history.state, "", now)
}

let search = ""
document.addEventListener("keydown", (event) => {
  if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey || typing(event) || !search) return
  const link = document.querySelector(`a[href$="${search}"]`)
  event.preventDefault()
  if (link) link.click()
  else location.assign(search)
})

/** Open the page anew in another language. */
function openAnew({ lang, usual }) {
  const address = new URL(location.href)
  if (lang === usual) address.searchParams.delete("lang")
  else address.searchParams.set("lang", lang)
  location.replace(address)
}

export default function ({ data }) {
  if (data.anew) return openAnew(data)
  document.documentElement.lang = data.lang
  settle(data.query)
  report = data.beat
  search = data.search
  const goal = `${location.pathname} ${data.at}`
  if (data.at && goal !== led) lead(data.at)
  // A link to a cell (#id): Streamlit scrolls when the heading comes, and what comes later pushes it away again. Only
  // when the page is opened: afterwards the reader scrolls.
  else if (!visited.has(location.pathname) && location.hash.length > 1) lead(decodeURIComponent(location.hash.slice(1)))
  visited.add(location.pathname)
  led = goal
  clearInterval(timer)
  if (report) timer = setInterval(beat, data.every * 1000)
  return () => { report = "" }
}
