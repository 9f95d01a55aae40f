// `thimble bench decode`: time of attention and of whole tokens over KV caches, dense and
// compressed, at given contexts.
#pragma once

#include "launcher/commands/command.h"

namespace thimble {

void add_bench_decode(CLI::App& bench, CommandSession& session);

}  // namespace thimble
