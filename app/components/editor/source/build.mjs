// Bundles source/editor.js into ../editor.js, and the licences of what is in the bundle into ../LICENSES.txt.
// Run by `make editor` (npm ci, then this), from the component's folder.

import { readdirSync, readFileSync, writeFileSync, existsSync } from "node:fs"
import { build } from "esbuild"

const built = await build({
  entryPoints: ["source/editor.js"],
  outfile: "editor.js",
  bundle: true,
  minify: true,
  format: "esm",
  target: "es2022",
  charset: "utf8",
  legalComments: "none",
  metafile: true,
  banner: { js: "// Built from source/editor.js by `make editor`; licences of its parts: LICENSES.txt" },
})

const packages = new Set()
for (const file of Object.keys(built.metafile.inputs)) {
  const found = file.match(/node_modules\/((?:@[^/]+\/)?[^/]+)\//)
  if (found) packages.add(found[1])
}
const parts = [...packages].sort().map((name) => {
  const folder = `node_modules/${name}`
  const about = JSON.parse(readFileSync(`${folder}/package.json`, "utf8"))
  const licence = readdirSync(folder).find((f) => /^licen[cs]e/i.test(f))
  const text = licence && existsSync(`${folder}/${licence}`) ? readFileSync(`${folder}/${licence}`, "utf8").trim() : `License: ${about.license}`
  return `${name} ${about.version} (${about.license})\n\n${text}\n`
})
const head = "editor.js holds the following packages, each under its own licence.\n"
writeFileSync("LICENSES.txt", [head, ...parts].join(`\n${"-".repeat(72)}\n\n`))
