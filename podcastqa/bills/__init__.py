"""What a provider says was spent, read exactly, and put beside the ledger."""
