"""The fuzzer: targets, what spoils their files, the judge of a case, and the processes (docs/fuzzing.md)."""
