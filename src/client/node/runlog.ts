/** The package `runlog`, as Node has it: `connect` takes a URL. */

export * from "../index.ts";
export { connect } from "./connect.ts";
