/** Whether this is `npm run test:thorough`: it takes its time, where `npm test` tries what suffices. */
export const isThorough = process.env["RUNLOG_TEST_THOROUGH"] !== undefined;
