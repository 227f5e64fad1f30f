import { defineConfig } from "vitest/config";

// One process a file: the mocks of Pulumi are global to a process.
export default defineConfig({
    test: { include: ["tests/**/*.test.ts"], pool: "forks", testTimeout: 60_000, hookTimeout: 120_000 },
});
