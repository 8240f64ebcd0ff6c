// A real Chromium that Python drives: a line of JSON in, {"do": name, ...}, a line of JSON out, {"value": ...} or
// {"error": ...}.
const { chromium } = require("playwright-core");
const fs = require("node:fs");
const readline = require("node:readline");

const [, , executablePath] = process.argv;
const OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"];
const MORE = ["--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--no-proxy-server"];

/** Run in each page before its own scripts: what the policy refuses is an error of the console too. */
const WATCH = `document.addEventListener("securitypolicyviolation", (event) =>
  console.error("policy: " + event.violatedDirective + " " + event.blockedURI))`;
const PATIENCE = 60000;
/** What the browser says is wrong: errors of the console, exceptions, violations of the policy. */
const complaints = [];
let browser;
let context;
let page;
let counting = null;

const actions = {
  // A new profile, in which nothing is kept.
  fresh: async ({ login: [username, password] }) => {
    await context?.close();
    complaints.length = 0;
    counting = null;
    context = await browser.newContext({
      viewport: { width: 1280, height: 800 },
      acceptDownloads: true,
      locale: "en-GB",
      httpCredentials: username ? { username, password } : undefined,
    });
    page = await context.newPage();
    page.on("console", (message) => message.type() === "error" && complaints.push(message.text()));
    page.on("pageerror", (error) => complaints.push(String(error)));
    await page.addInitScript(WATCH);
  },
  // A script that runs before those of each page.
  init: ({ script }) => page.addInitScript(script),
  // What the browser has counted of the page since this was asked first: seconds of its thread, among others.
  metrics: async () => {
    counting ??= await context.newCDPSession(page);
    await counting.send("Performance.enable", { timeDomain: "threadTicks" });
    const { metrics } = await counting.send("Performance.getMetrics");
    return Object.fromEntries(metrics.map(({ name, value }) => [name, value]));
  },
  open: async ({ url }) => { await page.goto(url); },
  // `script` is an expression. Until it is true: by a function of the page itself that would be eval, which its
  // policy refuses.
  wait: async ({ script }) => {
    for (const end = Date.now() + PATIENCE; Date.now() < end; await new Promise((done) => setTimeout(done, 50))) {
      const value = await page.evaluate(script).catch((error) => {
        if (!/navigation|destroyed/.test(error.message)) throw error;
      });
      if (value) return value;
    }
    throw new Error(`not so in time; the page: ${await page.evaluate("document.body.innerText")}`);
  },
  evaluate: ({ script }) => page.evaluate(script),
  click: ({ selector }) => page.click(selector),
  fill: ({ selector, text }) => page.fill(selector, text),
  press: ({ key }) => page.keyboard.press(key),
  drag: async ({ from, to }) => {
    await page.mouse.move(...from);
    await page.mouse.down();
    await page.mouse.move(...to, { steps: 5 });
    await page.mouse.up();
  },
  // Fingers on the screen, from where to where each.
  touch: async ({ fingers, steps = 5 }) => {
    const session = await context.newCDPSession(page);
    const send = (type, touchPoints) => session.send("Input.dispatchTouchEvent", { type, touchPoints });
    const at = (part) => fingers.map(([from, to], id) => ({ id, x: from[0] + (to[0] - from[0]) * part, y: from[1] + (to[1] - from[1]) * part }));
    await send("touchStart", at(0));
    for (let step = 1; step <= steps; step += 1) await send("touchMove", at(step / steps));
    await send("touchEnd", []);
    await session.detach();
  },
  size: ({ width, height }) => page.setViewportSize({ width, height }),
  media: ({ media }) => page.emulateMedia(media),
  screenshot: ({ path }) => page.screenshot({ path, fullPage: true }),
  download: async ({ selector }) => {
    const [download] = await Promise.all([page.waitForEvent("download"), page.click(selector)]);
    const path = await download.path();
    return { name: download.suggestedFilename(), text: fs.readFileSync(path, "utf8") };
  },
  axe: async () => {
    // The policy of the page lets no script in; the protocol of the browser does not ask it.
    await page.evaluate(fs.readFileSync(require.resolve("axe-core/axe.min.js"), "utf8"));
    const found = await page.evaluate("axe.run()");
    return found.violations.map(({ id, nodes }) => `${id}: ${nodes.map((node) => node.html).join(" | ")}`);
  },
  complaints: () => complaints.splice(0),
};

async function main() {
  browser = await chromium.launch({ executablePath, headless: true, args: [...OPTIONS, ...MORE] });
  process.stdout.write("ready\n");
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const request = JSON.parse(line);
    let answer;
    try {
      answer = { value: (await actions[request.do](request)) ?? null };
    } catch (error) {
      answer = { error: String(error), complaints };
    }
    process.stdout.write(`${JSON.stringify(answer)}\n`);
  }
  await browser.close();
}

main().catch((error) => {
  process.stdout.write(`${JSON.stringify({ error: String(error) })}\n`);
  process.exit(1);
});
