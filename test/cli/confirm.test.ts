import assert from "node:assert/strict";
import { PassThrough } from "node:stream";
import { confirm, type Terminal } from "../../src/cli/confirm.ts";
import { CommandError } from "../../src/cli/failure.ts";

const question = {
  yes: false,
  what: "deleting a tree",
  details: async () => "3 runs would be deleted.",
};

/** A terminal whose person types this. */
function terminalWith(typed: string | undefined): Terminal & { readonly output: PassThrough } {
  const input = new PassThrough();
  if (typed === undefined) input.end();
  else input.write(typed);
  return { input, output: new PassThrough(), isInteractive: true };
}

/** How the question ended: "confirmed", or the error's status. */
async function outcomeOf(typed: string | undefined): Promise<string> {
  try {
    await confirm(question, terminalWith(typed));
    return "confirmed";
  } catch (error) {
    assert.ok(error instanceof CommandError, String(error));
    assert.equal(error.message, "not confirmed: nothing was done");
    return String(error.status);
  }
}

describe("asking before something that cannot be undone", () => {
  it("takes the word yes, and nothing else", async () => {
    const answers = [
      "yes\n",
      " yes \n",
      "y\n",
      "\n",
      "no\n",
      "YES\n",
      undefined,
      "\u0004",
      "\u0003",
    ];
    const outcomes: string[] = [];
    for (const answer of answers) outcomes.push(await outcomeOf(answer));
    const [no, interrupted] = ["1", "130"];
    assert.deepEqual(outcomes, ["confirmed", "confirmed", no, no, no, no, no, no, interrupted]);
  });

  it("says what is at stake first", async () => {
    const terminal = terminalWith("yes\n");
    await confirm(question, terminal);
    assert.match(
      String(terminal.output.read()),
      /^3 runs would be deleted\.\n.*Type yes to continue: /,
    );
  });

  it("asks nothing with --yes, and looks nothing up", async () => {
    const details = () => Promise.reject(new Error("was looked up"));
    await confirm({ ...question, details, yes: true }, terminalWith(undefined));
  });

  it("is wrong usage where nobody can be asked, and looks nothing up", async () => {
    const details = () => Promise.reject(new Error("was looked up"));
    const terminal = { ...terminalWith("yes\n"), isInteractive: false };
    await assert.rejects(confirm({ ...question, details }, terminal), {
      name: "CommandError",
      status: 2,
      message: /^deleting a tree cannot be undone, .*: use --yes$/,
    });
  });
});
