// Rules that concern more than one key.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "core/base/text.h"
#include "data/conversation.h"
#include "launcher/job/reader.h"
#include "optim/registry.h"

namespace thimble::job {
namespace {

/// If one of two keys that exclude each other stands in the job and the other is an override, says
/// how to take the job's out.
std::string take_out_hint(const JobDraft& draft, const std::string& a, const std::string& b) {
  const bool a_outside = !draft.place_of(a).override_label.empty();
  const bool b_outside = !draft.place_of(b).override_label.empty();
  if (a_outside == b_outside) return {};
  return fmt::format("; --set {}= takes it out of the job", a_outside ? b : a);
}

/// One of several keys of a table must be given, and only one.
void check_exactly_one(JobDraft& draft, const std::string& table,
                       const std::vector<std::string>& keys) {
  std::vector<std::string> given;
  for (const std::string& key : keys) {
    if (draft.given(fmt::format("{}.{}", table, key))) given.push_back(key);
  }
  const std::string choices = join(keys);
  if (given.empty()) {
    draft.errors.add(draft.place_of(table),
                     fmt::format("missing key in [{}]: exactly one of {}", table, choices));
  }
  for (std::size_t i = 1; i < given.size(); ++i) {
    const std::string second = fmt::format("{}.{}", table, given[i]);
    const std::string first = fmt::format("{}.{}", table, given[0]);
    draft.errors.add(draft.place_of(second),
                     fmt::format("{} together with {}: exactly one of {}{}", second, first, choices,
                                 take_out_hint(draft, first, second)));
  }
}

void check_batch(JobDraft& draft) {
  const TrainingConfig& training = draft.config.training;
  const std::int64_t seq_len = draft.config.data.seq_len;
  if (draft.usable("training.global_batch_tokens") && draft.usable("data.seq_len") &&
      *training.global_batch_tokens % seq_len != 0) {
    const std::int64_t sequences = *training.global_batch_tokens / seq_len;
    draft.errors.add(
        draft.place_of("training.global_batch_tokens"),
        fmt::format(
            "training.global_batch_tokens = {}: not a multiple of data.seq_len = {}; near it: {}",
            *training.global_batch_tokens, seq_len, (sequences + 1) * seq_len));
  }
  if (draft.usable("training.global_batch_size") && !training.micro_batch_size.is_auto() &&
      *training.micro_batch_size.value > *training.global_batch_size) {
    draft.errors.add(
        draft.place_of("training.micro_batch_size"),
        fmt::format("training.micro_batch_size = {}: more than training.global_batch_size = {}",
                    *training.micro_batch_size.value, *training.global_batch_size));
  }
}

void check_schedule(JobDraft& draft) {
  LrSchedulerConfig& schedule = draft.config.lr_scheduler;
  const TrainingConfig& training = draft.config.training;
  const char* const steps = "lr_scheduler.warmup_steps";
  const char* const ratio = "lr_scheduler.warmup_ratio";
  if (draft.given(ratio) && draft.given(steps)) {
    draft.errors.add(draft.place_of(steps),
                     fmt::format("{} together with {}: at most one of them{}", steps, ratio,
                                 take_out_hint(draft, ratio, steps)));
  }
  if (!schedule.warmup_ratio && !schedule.warmup_steps) schedule.warmup_ratio = kDefaultWarmupRatio;
  if (draft.usable("lr_scheduler.warmup_steps") && draft.usable("training.max_steps") &&
      *schedule.warmup_steps >= *training.max_steps) {
    draft.errors.add(
        draft.place_of("lr_scheduler.warmup_steps"),
        fmt::format("lr_scheduler.warmup_steps = {}: allowed < training.max_steps = {}",
                    *schedule.warmup_steps, *training.max_steps));
  }
  const LrSchedulerConfig defaults;
  const auto needs_wsd = [&](const std::string& key) {
    draft.errors.add(draft.place_of(key),
                     fmt::format("{} needs lr_scheduler.type = \"wsd\", found \"{}\"", key,
                                 spelling(schedule.type)));
  };
  if (schedule.type != ScheduleType::kWsd) {
    if (schedule.decay_ratio != defaults.decay_ratio) needs_wsd("lr_scheduler.decay_ratio");
    if (schedule.decay_type != defaults.decay_type) needs_wsd("lr_scheduler.decay_type");
  }
}

void check_source(JobDraft& draft, const std::string& key, const DataSource& source) {
  const std::string plain = without_indices(key);
  const auto needs = [&](std::string_view name, std::string_view format) {
    draft.errors.add(draft.place_of(fmt::format("{}.{}", key, name)),
                     fmt::format("{}.{} needs {}.format = \"{}\", found \"{}\"", plain, name, plain,
                                 format, spelling(source.format)));
  };
  const bool is_auto = source.format == SampleFormat::kAuto;
  if (!source.document_separator.empty() && !is_auto && source.format != SampleFormat::kText) {
    needs("document_separator", "text");
  }
  const bool is_chat = is_chat_format(source.format);
  if (source.train_on_inputs && !is_auto && !is_chat &&
      source.format != SampleFormat::kPromptCompletion) {
    needs("train_on_inputs", "prompt_completion");
  }
  const DataSource defaults;
  if (is_auto || is_chat) return;
  if (source.roles_to_train != defaults.roles_to_train) needs("roles_to_train", "chat");
  if (source.turns_to_train != defaults.turns_to_train) needs("turns_to_train", "chat");
  if (source.train_on_eos != defaults.train_on_eos) needs("train_on_eos", "chat");
}

void check_data(JobDraft& draft) {
  DataConfig& data = draft.config.data;
  for (std::size_t i = 0; i < data.train.size(); ++i) {
    check_source(draft, fmt::format("data.train[{}]", i), data.train[i]);
  }
  for (std::size_t i = 0; i < data.eval.size(); ++i) {
    check_source(draft, fmt::format("data.eval[{}]", i), data.eval[i]);
  }
  if (draft.usable("data.val_set_size") && data.val_set_size >= 1 &&
      std::trunc(data.val_set_size) != data.val_set_size) {
    draft.errors.add(
        draft.place_of("data.val_set_size"),
        fmt::format("data.val_set_size = {}: allowed a share < 1 or a whole number of samples",
                    float_text(data.val_set_size)));
  }
  if (draft.given("data.eval")) {
    if (draft.usable("data.val_set_size") && data.val_set_size > 0) {
      draft.errors.add(draft.place_of("data.val_set_size"),
                       "data.val_set_size together with [[data.eval]]: at most one of them");
    }
    data.val_set_size = 0;
  }
  if (draft.usable("eval.early_stopping_patience") &&
      draft.config.eval.early_stopping_patience > 0 && data.val_set_size == 0 &&
      data.eval.empty()) {
    draft.errors.add(draft.place_of("eval.early_stopping_patience"),
                     "eval.early_stopping_patience needs something to evaluate: data.val_set_size "
                     "> 0 or [[data.eval]]");
  }
}

/// The optimizers that read a key, "adamw, lion, ...".
std::string readers_of(std::string_view key) {
  std::vector<std::string> names;
  for (const OptimizerEntry& entry : optimizer_entries()) {
    const std::vector<std::string> keys = reads(entry);
    if (std::find(keys.begin(), keys.end(), key) != keys.end()) names.emplace_back(entry.name);
  }
  return join(names);
}

/// Whether a key has its default value: a resolved job gives every key, most of them at their
/// defaults.
bool is_default(JobConfig& job, const std::string& key) {
  std::string now, otherwise;
  walk_fields(job, [&](const std::string& at, Field& field) {
    if (at == key) now = value_text(field);
  });
  JobConfig defaults;
  walk_fields(defaults, [&](const std::string& at, Field& field) {
    if (at == key) otherwise = value_text(field);
  });
  return now == otherwise;
}

/// Refuses keys of `table` that no optimizer reads to which the table applies (`names`); `own` is
/// the optimizer that the table itself names.
void check_keys_read(JobDraft& draft, const std::string& table, const std::set<std::string>& names,
                     const std::string& own) {
  // Only the table's own optimizer reads these keys; its fallback does not.
  static const std::set<std::string> kOwn{
      "rank",          "scale",       "scale_type", "update_proj_gap", "proj_type",
      "active_layers", "layer_order", "momentum",   "density"};
  std::set<std::string> read;
  for (const std::string& name : names) {
    const OptimizerEntry* entry = find_optimizer(name);
    if (entry == nullptr) return;  // which has a message of its own
    for (std::string& key : reads(*entry)) {
      if (name == own || !kOwn.contains(key)) read.insert(std::move(key));
    }
  }
  const std::vector<std::string> all(names.begin(), names.end());
  std::set<std::string> known;
  for (const OptimizerEntry& entry : optimizer_entries()) {
    for (std::string& key : reads(entry)) known.insert(std::move(key));
  }
  for (const std::string& key : known) {
    const std::string full = fmt::format("{}.{}", table, key);
    if (read.contains(key) || !draft.given(full) || is_default(draft.config, full)) continue;
    draft.errors.add(
        draft.place_of(full),
        fmt::format("{} has no effect: {} {} not read it; it is read by {}", without_indices(full),
                    join(all), all.size() == 1 ? "does" : "do", readers_of(key)));
  }
}

/// Tensors that an optimizer does not take go to the fallback, with the settings of the main table,
/// so the fallback's keys count as read too.
void check_optimizer_keys(JobDraft& draft) {
  const OptimizerConfig& o = draft.config.optimizer;
  std::set<std::string> names{o.name};
  const auto add = [&](const std::string& name) {
    names.insert(name);
    const OptimizerEntry* entry = find_optimizer(name);
    if (entry != nullptr && entry->takes != OptimizerEntry::Takes::kEverything)
      names.insert(o.fallback ? o.fallback->name : "adamw");
  };
  add(o.name);
  for (std::size_t i = 0; i < o.groups.size(); ++i) {
    const std::string own = o.groups[i].name.empty() ? o.name : o.groups[i].name;
    add(own);
    check_keys_read(draft, fmt::format("optimizer.groups[{}]", i), {own}, own);
  }
  check_keys_read(draft, "optimizer", names, o.name);
}

void check_optimizer(JobDraft& draft) {
  check_optimizer_keys(draft);
  if (draft.config.optimizer.fused_backward && draft.config.training.max_grad_norm > 0 &&
      draft.config.training.grad_norm_mode == ClipMode::kExact) {
    draft.errors.add(draft.place_of("optimizer.fused_backward"),
                     "optimizer.fused_backward = true needs training.grad_norm_mode = "
                     "\"two_pass\", \"lagged\" or "
                     "\"per_tensor\"");
  }
  if (!draft.config.optimizer.fused_backward &&
      draft.config.training.grad_norm_mode != ClipMode::kExact) {
    draft.errors.add(
        draft.place_of("training.grad_norm_mode"),
        fmt::format("training.grad_norm_mode = \"{}\" needs optimizer.fused_backward = true",
                    spelling(draft.config.training.grad_norm_mode)));
  }
}

void check_arithmetic(JobDraft& draft) {
  if (draft.config.model.linear_dtype == LinearDType::kFP8 &&
      draft.config.model.dtype != DType::kBF16) {
    draft.errors.add(draft.place_of("model.linear_dtype"),
                     "model.linear_dtype = \"fp8\" needs model.dtype = \"bf16\"");
  }
  if (draft.config.parallelism.reduction == Reduction::kNccl &&
      draft.config.device == DeviceKind::kCpu) {
    draft.errors.add(draft.place_of("parallelism.reduction"),
                     "parallelism.reduction = \"nccl\" needs device = \"cuda\"");
  }
}

void check_name(JobDraft& draft) {
  const std::string& name = draft.config.name;
  if (!draft.usable("name")) return;
  if (name == "." || name == ".." || name.find('/') != std::string::npos || name.size() > 128) {
    draft.errors.add(
        draft.place_of("name"),
        fmt::format("name = \"{}\": allowed the name of one directory, at most 128 bytes",
                    printable(name, 60)));
  }
}

}  // namespace

void check_combinations(JobDraft& draft) {
  check_name(draft);
  check_exactly_one(draft, "model", {"path", "config"});
  check_exactly_one(draft, "training", {"max_steps", "num_epochs", "max_tokens"});
  check_exactly_one(draft, "training", {"global_batch_size", "global_batch_tokens"});
  check_batch(draft);
  check_schedule(draft);
  check_data(draft);
  check_optimizer(draft);
  check_arithmetic(draft);
}

}  // namespace thimble::job
