"""The Tinker API: requests over HTTP, their order, and what is kept of them.

From the outside in:

    server      one service on one root folder, from its start to its end
    http, rest  the routes; bodies and wire decode requests and encode results
    downloads   the files of a checkpoint, by signed URLs
    core        each request of the SDK becomes an entry in a queue; sessions own the queues
    queues      the requests of one model, in order; operations says what each asks for
    scheduler   training in cycles; sampling beside it, in turns
    backend     the engine and the disk, each behind a thread of its own
    store       checkpoints on disk; durable writes them whole or not at all
    futures     results, until they are fetched
"""
