// A reporter for the test command: one line with the figures it counts. Suites are not tests.

export default async function* summary(events) {
  const figures = { "test:pass": 0, "test:fail": 0 };
  for await (const { type, data } of events) {
    // A file that did not even load has a failure and no test.
    const counts = type === "test:fail" ? data.details.error?.failureType !== "subtestsFailed" : true;
    if (type in figures && data.details.type !== "suite" && counts) figures[type] += 1;
  }
  yield `node: ${figures["test:pass"]} passed, ${figures["test:fail"]} failed\n`;
}
