// `thimble optimizers`: what each optimizer does compared with AdamW, when to use it and what it
// keeps; with a name, one of them in detail.
#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>

#include "core/base/error.h"
#include "core/base/text.h"
#include "launcher/commands/command.h"
#include "launcher/job/walk_fields.h"
#include "optim/registry.h"

namespace thimble {
namespace {

constexpr std::size_t kColumns = 100;
constexpr std::int64_t kSide = 4096;  // of the matrix whose state is given in numbers

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

const char* takes_in_words(const OptimizerEntry& entry) {
  switch (entry.takes) {
    case OptimizerEntry::Takes::kEverything:
      return "every parameter";
    case OptimizerEntry::Takes::kLayers:
      return "what belongs to a transformer layer; optimizer.fallback (adamw) takes the others";
    case OptimizerEntry::Takes::kMatrices:
      return "all matrices, embedding and LM head too; optimizer.fallback (adamw) takes norms and "
             "biases";
    case OptimizerEntry::Takes::kBlockMatrices:
      return "the matrices of the transformer layers; optimizer.fallback (adamw) takes embedding, "
             "LM head, norms and biases";
  }
  return "?";
}

// The state of a [kSide, kSide] matrix in bytes, f32 where a format is not the optimizer's own.
std::int64_t state_bytes(const OptimizerEntry& entry) {
  const ParamInfo info{.name = "matrix", .shape = Shape{kSide, kSide}, .layer = 0};
  const auto optimizer = entry.make({.name = entry.name});
  std::int64_t bytes = 0;
  for (const StateSlot& slot : optimizer->state_slots(info))
    bytes += slot.whole.numel() * dtype_size(slot.dtype);
  return bytes;
}

// What fills a line up to kColumns goes on the next one, `indent` columns in.
std::string wrapped(const std::string& first, const std::string& text, std::size_t indent) {
  std::string out, line = fmt::format("{:<{}}", first, indent);
  bool is_empty = true;
  std::istringstream words(text);
  for (std::string word; words >> word;) {
    if (!is_empty && line.size() + 1 + word.size() > kColumns) {
      out += line + "\n";
      line = std::string(indent, ' ');
      is_empty = true;
    }
    line += (is_empty ? "" : " ") + word;
    is_empty = false;
  }
  return out + line + "\n";
}

std::string percent_of_adamw(const OptimizerEntry& entry) {
  const double share = static_cast<double>(state_bytes(entry)) / (8.0 * kSide * kSide) * 100;
  if (share > 0 && share < 0.05) return "< 0.1 %";
  return share > 0 && share < 9.95 ? fmt::format("{:.1f} %", share)
                                   : fmt::format("{:.0f} %", share);
}

void print_json() {
  for (const OptimizerEntry& e : optimizer_entries()) {
    nlohmann::ordered_json defaults = nlohmann::ordered_json::object();
    for (const OptimizerKey& key : keys_of(e)) {
      if (!key.value.empty()) defaults[key.name] = key.value;
    }
    fmt::print("{}\n", nlohmann::ordered_json{{"name", e.name},
                                              {"summary", e.summary},
                                              {"use", e.use},
                                              {"memory", e.memory},
                                              {"state_bytes", e.state},
                                              {"shards_and_sums", e.needs},
                                              {"takes", takes(e)},
                                              {"keys", reads(e)},
                                              {"defaults", defaults},
                                              {"int8_weights", e.int8_weights},
                                              {"paper", e.paper}}
                           .dump());
  }
}

void print_all() {
  constexpr std::size_t kIndent = 24;
  fmt::print("{:<16}{:<8}{}\n\n", "NAME", "STATE", "WHAT IT DOES, AND WHEN TO USE IT");
  for (const OptimizerEntry& e : optimizer_entries()) {
    std::string own;
    for (const OptimizerKey& key : keys_of(e)) {
      if (!key.value.empty())
        own += fmt::format("{}{} = {}", own.empty() ? "" : ", ", key.name, key.value);
    }
    fmt::print("{}", wrapped(fmt::format("{:<16}{:<8}", e.name, percent_of_adamw(e)),
                             fmt::format("{}.", e.summary), kIndent));
    fmt::print("{}", wrapped("", fmt::format("Use it {}.", e.use), kIndent));
    fmt::print("{}", wrapped("", fmt::format("State: {}.", e.memory), kIndent));
    if (!own.empty()) fmt::print("{}", wrapped("", fmt::format("Keys: {}.", own), kIndent));
    fmt::print("\n");
  }
  fmt::print("{}", wrapped("",
                           fmt::format("STATE is what is kept of a {0} x {0} matrix with the "
                                       "optimizer's defaults, relative to "
                                       "AdamW's two f32 values per weight; of badam and lisa it is "
                                       "that of an active layer. A row "
                                       "runs along the short side of a matrix. Keys are those of "
                                       "[optimizer] that have a default of "
                                       "the optimizer's own; `thimble optimizers NAME` shows all "
                                       "that it reads, its paper and the "
                                       "learning rates it is used with.",
                                       kSide),
                           0));
}

// Documentation and default of each key of [optimizer] in a job.
std::map<std::string, std::pair<std::string, std::string>> job_keys() {
  std::map<std::string, std::pair<std::string, std::string>> keys;
  job::JobConfig config;
  const std::string prefix = "optimizer.";
  job::walk_fields(config, [&](const std::string& key, job::Field& field) {
    if (key.starts_with(prefix))
      keys[key.substr(prefix.size())] = {std::string(field.doc), job::value_text(field)};
  });
  return keys;
}

void print_one(const OptimizerEntry& e) {
  constexpr std::size_t kIndent = 17;
  const auto line = [](const char* what, const std::string& text) {
    fmt::print("{}", wrapped(fmt::format("  {}", what), text, kIndent));
  };
  fmt::print("{}\n", wrapped(fmt::format("{}:", e.name), fmt::format(" {}.", e.summary),
                             std::string_view(e.name).size() + 2));
  line("Use it", fmt::format("{}.", e.use));
  line("State", fmt::format("{}.", e.memory));
  line("", fmt::format("{} bytes for a matrix of L long rows and s short columns{}.", e.state,
                       reads_key(e, "rank") ? " at rank r" : ""));
  line("", fmt::format("{0} x {0} with the defaults: {1:.2f} MiB, {2} of AdamW's.", kSide,
                       static_cast<double>(state_bytes(e)) / (1 << 20), percent_of_adamw(e)));
  if (e.int8_weights) line("Weights", "8 bits, 1.03 bytes per weight, without a master.");
  line("Takes", fmt::format("{}.", takes_in_words(e)));
  const std::string needs = e.needs;
  const std::size_t semicolon = needs.find(';');
  line("Shards", fmt::format("hold {}.", needs.substr(0, semicolon)));
  line("Reduced", fmt::format("over the ranks per step:{}.", needs.substr(semicolon + 1)));
  line("Learning rate",
       fmt::format("usually {} to {}; above {} the loss diverges.", job::float_text(e.lr.usual_min),
                   job::float_text(e.lr.usual_max), job::float_text(e.lr.most)));
  line("Paper", fmt::format("{}.", e.paper));
  fmt::print("\n  KEYS OF [optimizer] BESIDE name AND lr\n");
  const auto of_job = job_keys();
  for (const OptimizerKey& key : keys_of(e)) {
    const auto& [doc, usual] = of_job.at(key.name);
    const std::string value = key.value.empty() ? usual : key.value;
    fmt::print("{}", wrapped(fmt::format("  {:<19}{:<14}", key.name, value.empty() ? "-" : value),
                             fmt::format("{}.", doc), 35));
  }
}

void print_one_by_name(const std::string& name) {
  const OptimizerEntry* entry = find_optimizer(name);
  if (entry == nullptr)
    throw_user("optimizer \"{}\": allowed {}", printable(name), optimizer_names());
  print_one(*entry);
}

}  // namespace

void add_optimizers_command(CLI::App& app, CommandSession& session) {
  struct Arguments {
    std::string name;
    bool json = false;
  };
  auto arguments = std::make_shared<Arguments>();
  CLI::App* optimizers = app.add_subcommand(
      "optimizers", "What each optimizer does compared with AdamW, and the state it keeps");
  optimizers->add_option("name", arguments->name,
                         "Show this one, with its keys and their defaults");
  optimizers->add_flag("--json", arguments->json, "One JSON object per line");
  optimizers->footer(
      "Examples:\n"
      "  thimble optimizers\n"
      "  thimble optimizers galore\n"
      "  thimble train job.toml --set optimizer.name=apollo_mini --set optimizer.lr=1e-2");
  optimizers->callback([arguments, &session] {
    session.start();
    if (arguments->json) return print_json();
    if (!arguments->name.empty()) return print_one_by_name(arguments->name);
    print_all();
  });
}

}  // namespace thimble
