"""The fuzzer: targets, mutations of their files, the judge of a case, and the processes (docs/fuzzing.md)."""
