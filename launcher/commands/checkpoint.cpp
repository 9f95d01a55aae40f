// `thimble checkpoint`: list, verify, repair and prune the checkpoints of a run.
#include <fmt/chrono.h>
#include <fmt/core.h>
#include <spdlog/spdlog.h>

#include <CLI/CLI.hpp>
#include <ctime>
#include <nlohmann/json.hpp>

#include "core/base/error.h"
#include "core/base/numeric.h"
#include "core/base/text.h"
#include "core/ops/op_observer.h"
#include "launcher/commands/checkpoint_care.h"
#include "launcher/commands/command.h"

namespace thimble {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::size_t kShownBlocks = 20;
constexpr std::size_t kShownTensors = 3;

struct CheckpointArguments {
  std::string run;
  std::optional<std::int64_t> step, keep_every;
  std::int64_t keep = 0;
  bool dry_run = false, json = false;
};

// Names come from files that may hold anything.
void print_result(const Json& json) {
  fmt::print("{}\n", json.dump(-1, ' ', false, Json::error_handler_t::replace));
}

std::string date_text(std::int64_t seconds) {
  const std::time_t time = seconds;
  std::tm local{};
  ::localtime_r(&time, &local);
  return fmt::format("{:%Y-%m-%d %H:%M:%S}", local);
}

Json entry_json(const CheckpointEntry& entry) {
  return {{"step", entry.step},
          {"path", entry.path.string()},
          {"state", condition_name(entry.state)},
          {"bytes", entry.bytes},
          {"saved", entry.saved_s},
          {"kept_for", entry.kept_for},
          {"problem", entry.problem}};
}

Json entries_json(const std::vector<CheckpointEntry>& entries) {
  Json list = Json::array();
  for (const CheckpointEntry& entry : entries) list.push_back(entry_json(entry));
  return list;
}

void list(const CheckpointArguments& a) {
  const std::vector<CheckpointEntry> entries = list_entries(a.run);
  if (a.json) {
    print_result({{"run", a.run}, {"checkpoints", entries_json(entries)}});
    return;
  }
  if (entries.empty()) {
    fmt::print("{} has no checkpoints\n", a.run);
    return;
  }
  std::int64_t bytes = 0;
  fmt::print("{:>10}  {:<19}  {:>10}  {:<10}  {}\n", "step", "saved", "size", "state", "kept as");
  for (const CheckpointEntry& entry : entries) {
    bytes += entry.bytes;
    const bool is_plain = entry.state == CheckpointCondition::kComplete ||
                          entry.state == CheckpointCondition::kDamaged;
    const std::string note =
        entry.problem.empty() ? (is_plain ? join(entry.kept_for) : entry.path.filename().string())
                              : printable(entry.problem, 300);
    fmt::print("{:>10}  {:<19}  {:>10}  {:<10}  {}\n", entry.step, date_text(entry.saved_s),
               format_bytes(entry.bytes), condition_name(entry.state), note);
  }
  fmt::print("{} in {}\n", format_bytes(bytes), checkpoints_of(a.run).string());
}

Json block_json(const DamagedBlock& block) {
  Json tensors = Json::array();
  for (const DamagedTensor& tensor : block.tensors) {
    tensors.push_back({{"tensor", tensor.name},
                       {"slot", tensor.slot},
                       {"begin", tensor.begin},
                       {"end", tensor.end}});
  }
  return {{"begin", block.begin},
          {"end", block.end},
          {"why", block.unreadable.empty() ? "the checksum does not match" : block.unreadable},
          {"tensors", tensors}};
}

Json verified_json(const VerifiedCheckpoint& checkpoint) {
  Json blocks = Json::array();
  for (const DamagedBlock& block : checkpoint.damage.blocks) blocks.push_back(block_json(block));
  return {{"step", checkpoint.name.step},
          {"path", checkpoint.name.path.string()},
          {"sound", !checkpoint.damage.found()},
          {"bytes", checkpoint.damage.bytes},
          {"problem", checkpoint.damage.problem},
          {"file", checkpoint.damage.file.string()},
          {"blocks", blocks}};
}

Json verified_list(const std::vector<VerifiedCheckpoint>& checkpoints) {
  Json list = Json::array();
  for (const VerifiedCheckpoint& checkpoint : checkpoints)
    list.push_back(verified_json(checkpoint));
  return list;
}

std::int64_t num_damaged(const std::vector<VerifiedCheckpoint>& checkpoints) {
  return std::count_if(checkpoints.begin(), checkpoints.end(),
                       [](const VerifiedCheckpoint& c) { return c.damage.found(); });
}

void print_verified(const VerifiedCheckpoint& checkpoint) {
  const CheckpointDamage& damage = checkpoint.damage;
  const std::string path = checkpoint.name.path.string();
  if (!damage.found()) {
    fmt::print("{}: sound, {}\n", path, format_bytes(damage.bytes));
    return;
  }
  fmt::print("{}: DAMAGED\n", path);
  if (!damage.problem.empty()) fmt::print("  {}\n", printable(damage.problem, 400));
  for (std::size_t i = 0; i < std::min(kShownBlocks, damage.blocks.size()); ++i) {
    const DamagedBlock& block = damage.blocks[i];
    fmt::print(
        "  {}: bytes {} to {}: {}; they hold {}\n", damage.file.string(), block.begin, block.end,
        block.unreadable.empty() ? "the checksum does not match" : printable(block.unreadable, 200),
        block.owners(kShownTensors));
  }
  if (damage.blocks.size() > kShownBlocks) {
    fmt::print("  and {} more damaged blocks (--json lists them)\n",
               damage.blocks.size() - kShownBlocks);
  }
}

void verify(const CheckpointArguments& a, CommandSession& session) {
  const std::int64_t start = steady_now_ns();
  const auto checkpoints = verify_checkpoints(a.run, a.step);
  const double seconds = static_cast<double>(steady_now_ns() - start) * 1e-9;
  std::int64_t bytes = 0;
  for (const VerifiedCheckpoint& checkpoint : checkpoints) bytes += checkpoint.damage.bytes;
  const std::int64_t damaged = num_damaged(checkpoints);
  if (damaged > 0) session.exit_code = kExitSystem;
  if (a.json) {
    print_result({{"run", a.run},
                  {"bytes", bytes},
                  {"seconds", seconds},
                  {"damaged", damaged},
                  {"checkpoints", verified_list(checkpoints)}});
    return;
  }
  for (const VerifiedCheckpoint& checkpoint : checkpoints) print_verified(checkpoint);
  fmt::print("{} checkpoint{}, {} read in {:.3g} s ({:.3g} GB/s); {}\n", checkpoints.size(),
             checkpoints.size() == 1 ? "" : "s", format_bytes(bytes), seconds,
             static_cast<double>(bytes) * 1e-9 / seconds,
             damaged == 0 ? "none is damaged" : fmt::format("{} damaged", damaged));
}

void repair(const CheckpointArguments& a, CommandSession& session) {
  const RepairReport report = repair_checkpoints(a.run);
  const std::int64_t damaged = num_damaged(report.found);
  if (damaged > 0 && !report.newest_sound) session.exit_code = kExitSystem;
  if (a.json) {
    Json aside = Json::array(), removed = Json::array();
    for (const auto& [from, to] : report.set_aside) {
      aside.push_back({{"from", from.string()}, {"to", to.string()}});
    }
    for (const auto& path : report.removed) removed.push_back(path.string());
    print_result({{"run", a.run},
                  {"removed", removed},
                  {"set_aside", aside},
                  {"continues_from", report.newest_sound ? Json(*report.newest_sound) : Json()},
                  {"checkpoints", verified_list(report.found)}});
    return;
  }
  for (const VerifiedCheckpoint& checkpoint : report.found) {
    if (checkpoint.damage.found()) print_verified(checkpoint);
  }
  for (const auto& path : report.removed) {
    fmt::print("removed {}, left by a save that was cut short\n", path.string());
  }
  for (const auto& [from, to] : report.set_aside) {
    fmt::print("{} is now {}\n", from.string(), to.filename().string());
  }
  if (report.newest_sound) {
    fmt::print("{} checkpoints, {} damaged; a start continues from step {}\n", report.found.size(),
               damaged, *report.newest_sound);
  } else if (damaged > 0) {
    fmt::print(
        "no checkpoint is sound: they stay where they are, since a start would begin anew without "
        "them; `thimble train --fresh` moves the run aside and begins anew\n");
  } else {
    fmt::print("{} has no checkpoints\n", a.run);
  }
}

void prune(const CheckpointArguments& a) {
  const PruneReport report =
      prune_run(a.run, {.keep = a.keep, .keep_every = a.keep_every, .dry_run = a.dry_run});
  if (a.json) {
    print_result({{"run", a.run},
                  {"dry_run", a.dry_run},
                  {"kept", entries_json(report.kept)},
                  {"removed", entries_json(report.removed)},
                  {"removed_bytes", report.removed_bytes}});
    return;
  }
  for (const CheckpointEntry& entry : report.kept) {
    fmt::print("kept    {}: {}\n", entry.path.string(),
               entry.state == CheckpointCondition::kDamaged
                   ? "damaged; `thimble checkpoint repair` moves it aside"
                   : join(entry.kept_for));
  }
  for (const CheckpointEntry& entry : report.removed) {
    fmt::print("{} {}: {}\n", a.dry_run ? "would remove" : "removed", entry.path.string(),
               format_bytes(entry.bytes));
  }
  fmt::print("{} checkpoints {}, {}\n", report.removed.size(),
             a.dry_run ? "would be removed" : "removed", format_bytes(report.removed_bytes));
}

using Action = void (*)(const CheckpointArguments& arguments, CommandSession& session);

CLI::App* add_action(CLI::App& checkpoint, CommandSession& session,
                     const std::shared_ptr<CheckpointArguments>& a, Action action) {
  checkpoint.add_option("run", a->run, "Run directory, such as runs/demo")->required();
  checkpoint.add_flag("--json", a->json, "One JSON object");
  checkpoint.callback([a, action, &session] {
    session.start();
    action(*a, session);
  });
  return &checkpoint;
}

}  // namespace

void add_checkpoint_command(CLI::App& app, CommandSession& session) {
  const auto a = std::make_shared<CheckpointArguments>();
  CLI::App* checkpoint =
      app.add_subcommand("checkpoint", "List, verify, repair and prune the checkpoints of a run");
  checkpoint->require_subcommand(1);
  checkpoint->footer(
      "Examples:\n"
      "  thimble checkpoint list runs/demo\n"
      "  thimble checkpoint verify runs/demo --step 200\n"
      "  thimble checkpoint repair runs/demo\n"
      "  thimble checkpoint prune runs/demo --keep 2 --dry-run");
  add_action(*checkpoint->add_subcommand(
                 "list", "Step, date, size and state of each checkpoint, and why it is kept"),
             session, a, [](const CheckpointArguments& x, CommandSession&) { list(x); })
      ->footer("Example:\n  thimble checkpoint list runs/demo --json");
  add_action(*checkpoint->add_subcommand(
                 "verify",
                 "Read every byte and name what is damaged: file, tensor, offset; exit code 1 if "
                 "anything is"),
             session, a, verify)
      ->footer("Example:\n  thimble checkpoint verify runs/demo")
      ->add_option("--step", a->step, "Only the checkpoint of this step");
  add_action(
      *checkpoint->add_subcommand(
          "repair",
          "Remove what interrupted saves left and move damaged checkpoints aside, if a sound "
          "one is left; not while the run trains"),
      session, a, repair)
      ->footer("Example:\n  thimble checkpoint repair runs/demo");
  CLI::App* pruning = add_action(
      *checkpoint->add_subcommand(
          "prune",
          "Remove older checkpoints, never the newest sound one or the best; not while the run "
          "trains"),
      session, a, [](const CheckpointArguments& x, CommandSession&) { prune(x); });
  pruning->footer(
      "Examples:\n"
      "  thimble checkpoint prune runs/demo --keep 2 --dry-run\n"
      "  thimble checkpoint prune runs/demo --keep 1 --keep-every 1000");
  pruning->add_option("--keep", a->keep, "Newest checkpoints that stay")
      ->required()
      ->check(CLI::Range(1, 1 << 30));
  pruning
      ->add_option("--keep-every", a->keep_every,
                   "Those of every so many steps stay too; 0: none (default: as in the run's job)")
      ->check(CLI::Range(0, 1 << 30));
  pruning->add_flag("--dry-run", a->dry_run, "Say what would be removed, and remove nothing");
}

}  // namespace thimble
