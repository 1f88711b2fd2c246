/** The pages that may call a server, and its own names, as options. */
import assert from "node:assert/strict";
import { BrowserRules } from "../../src/server/auth/browser-rules.ts";

describe("the list of origins", () => {
  for (const [origin, problem] of [
    ["*", /every page/],
    ["null", /sandboxed/],
    ["app.example.com", /SCHEME:\/\/HOST/],
    ["https://app.example.com/", /SCHEME:\/\/HOST.*without a path/],
    ["https://app.example.com/a", /without a path/],
    ["https://*.example.com", /SCHEME:\/\/HOST/],
    ["https://a@app.example.com", /SCHEME:\/\/HOST/],
    ["https://a.example.com,https://b.example.com", /SCHEME:\/\/HOST/],
    ["https://App.example.com", /use https:\/\/app\.example\.com/],
    ["https://app.example.com:443", /use https:\/\/app\.example\.com$/],
    ["https://app.example.com:99999", /SCHEME:\/\/HOST/],
    ["", /SCHEME:\/\/HOST/],
  ] as const) {
    it(`has no ${JSON.stringify(origin)}`, () => {
      const make = () => new BrowserRules({ origins: [origin], hostNames: undefined });
      assert.throws(make, { name: "OriginError", message: problem });
    });
  }
});

describe("the names of a server", () => {
  for (const name of ["https://runlog.example.com", "runlog:7400", "*.example.com", "a b", ""]) {
    it(`have no ${JSON.stringify(name)}`, () => {
      const make = () => new BrowserRules({ origins: [], hostNames: [name] });
      assert.throws(make, { name: "HostNameError", message: /without scheme and port/ });
    });
  }
});
