/** A Chromium, and web sites that have the tests' page, whatever their name. */
import { existsSync } from "node:fs";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { delimiter, join } from "node:path";
import { build, stop } from "esbuild";
import { type Browser, chromium, type Page } from "playwright-core";

const programs = ["chromium", "chromium-browser", "google-chrome"];
const html = `<!doctype html><title>runlog</title><script src="/page.js"></script>`;

/** The page and all that it imports, as one script. It fails where some of it is for Node. */
async function bundlePage(): Promise<string> {
  const entry = join(import.meta.dirname, "page.ts");
  try {
    const { outputFiles } = await build({
      entryPoints: [entry],
      bundle: true,
      write: false,
      platform: "browser",
      format: "iife",
      target: "es2024",
      logLevel: "error",
    });
    return outputFiles[0]!.text;
  } finally {
    await stop();
  }
}

function pathOfChromium(): string {
  const folders = (process.env["PATH"] ?? "").split(delimiter);
  const paths = programs.flatMap((program) => folders.map((folder) => join(folder, program)));
  const found = paths.find((path) => existsSync(path));
  if (found === undefined) throw new Error(`none of ${programs.join(", ")} is in the PATH`);
  return found;
}

/** A browser, and the sites that it knows. */
export class Chromium {
  readonly #browser: Browser;
  readonly #sites: Server;

  private constructor(browser: Browser, sites: Server) {
    this.#browser = browser;
    this.#sites = sites;
  }

  /** Starts both. */
  static async start(): Promise<Chromium> {
    const script = await bundlePage();
    const sites = createServer((request, response) => {
      const isScript = request.url === "/page.js";
      response.setHeader("content-type", isScript ? "text/javascript" : "text/html");
      response.end(isScript ? script : html);
    });
    await new Promise<void>((resolve) => sites.listen(0, "127.0.0.1", resolve));
    const browser = await chromium.launch({
      executablePath: pathOfChromium(),
      args: ["--host-resolver-rules=MAP *.example 127.0.0.1"],
    });
    return new Chromium(browser, sites);
  }

  /** The origin of a site; its name ends with `.example`. */
  origin(name: string): string {
    return `http://${name}:${this.port}`;
  }

  /** The port of all sites. */
  get port(): number {
    return (this.#sites.address() as AddressInfo).port;
  }

  /** Opens the page of an origin, in a profile of its own. */
  async open(origin: string): Promise<Page> {
    const context = await this.#browser.newContext({ ignoreHTTPSErrors: true });
    const page = await context.newPage();
    await page.goto(origin);
    return page;
  }

  async stop(): Promise<void> {
    await this.#browser.close();
    this.#sites.closeAllConnections();
    await new Promise((resolve) => this.#sites.close(resolve));
  }
}
