/** Colours for standard output: on a terminal only, and not where NO_COLOR is set. */
import pc from "picocolors";

/** The functions that colour text, or leave it as it is. */
export type Colors = ReturnType<typeof pc.createColors>;

/** Colours for whatever standard output is. */
export function terminalColors(): Colors {
  // `isTTY` is undefined where it is no terminal, and an undefined argument
  // would mean picocolors' own guess, which colours in every CI.
  return pc.createColors(process.stdout.isTTY === true && pc.isColorSupported);
}
