// `thimble optimizers`: what there is, what it keeps and what it needs.
#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "core/base/text.h"
#include "launcher/commands/command.h"
#include "optim/registry.h"

namespace thimble {
namespace {

const char* takes(const OptimizerEntry& entry) {
  switch (entry.takes) {
    case OptimizerEntry::Takes::kEverything:
      return "everything";
    case OptimizerEntry::Takes::kLayers:
      return "layers";
    case OptimizerEntry::Takes::kMatrices:
      return "matrices";
    case OptimizerEntry::Takes::kBlockMatrices:
      return "block matrices";
  }
  return "?";
}

void list_optimizers(bool json) {
  if (json) {
    for (const OptimizerEntry& e : optimizer_entries()) {
      fmt::print("{}\n", nlohmann::ordered_json{{"name", e.name},
                                                {"summary", e.summary},
                                                {"state_bytes", e.state},
                                                {"shards_and_sums", e.needs},
                                                {"takes", takes(e)},
                                                {"keys", reads(e)}}
                             .dump());
    }
    return;
  }
  for (const OptimizerEntry& e : optimizer_entries()) {
    fmt::print("{:<14} {}\n{:<14}   state {} bytes; takes {}; shards: {}\n{:<14}   keys: {}\n",
               e.name, e.summary, "", e.state, takes(e), e.needs, "", join(reads(e)));
  }
  fmt::print(
      "\nState of a matrix of L long rows and s short columns at rank r. What an optimizer does "
      "not "
      "take goes to\noptimizer.fallback (adamw). shards: what a rank may own; what is summed over "
      "ranks each step. keys: of [optimizer] beside name and lr; another one\nis refused unless "
      "the fallback reads it.\n");
}

}  // namespace

void add_optimizers_command(CLI::App& app, CommandSession& session) {
  auto json = std::make_shared<bool>(false);
  CLI::App* optimizers =
      app.add_subcommand("optimizers", "List the optimizers, their state and what they need");
  optimizers->add_flag("--json", *json, "One JSON object a line");
  optimizers->footer(
      "Examples:\n"
      "  thimble optimizers\n"
      "  thimble train job.toml --set optimizer.name=apollo_mini --set optimizer.lr=1e-2");
  optimizers->callback([json, &session] {
    session.start();
    list_optimizers(*json);
  });
}

}  // namespace thimble
