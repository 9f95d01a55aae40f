// `thimble bench train`: training steps on random tokens, with the keys of the PyTorch peers, on
// one process or on the ranks of an MPI program.
#pragma once

namespace CLI {
class App;
}

namespace thimble {

struct CommandSession;
void add_bench_train(CLI::App& bench, CommandSession& session);

}  // namespace thimble
