"""The only SQL on jobs and accounts. With one database, these modules are the store: there is no port."""
