module resilience.dev/lab/small

go 1.26.0
