"""The network part of the `batches` plane, against brokers that are threads of the test and misbehave on demand."""
