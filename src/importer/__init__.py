"""The service: takes the URLs of huge CSVs by REST, and supervises one loader process per import."""
