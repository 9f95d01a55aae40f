#include "launcher/commands/run_outlook.h"

#include <cmath>

#include "core/base/error.h"
#include "core/base/numeric.h"

namespace thimble {
namespace {

// More epochs than anyone wants without saying so.
constexpr double kManyEpochs = 50;

bool is_weighted(const TrainSpec& spec) {
  return std::any_of(spec.data.train.begin(), spec.data.train.end(),
                     [](const SourceSpec& s) { return s.weight != 1.0; });
}

// Three digits, and no exponent where there are more before the point.
std::string short_number(double value) {
  return value < 1000 ? fmt::format("{:.3g}", value) : fmt::format("{:.0f}", value);
}

std::string millions(std::int64_t tokens) {
  return tokens < 1'000'000 ? fmt::format("{}", tokens)
                            : short_number(static_cast<double>(tokens) / 1e6) + " M";
}

}  // namespace

RunOutlook look_ahead(const job::JobConfig& job, const TrainSpec& spec,
                      const Tokenizer& tokenizer) {
  RunOutlook outlook{.data = look_at_data(spec.data, tokenizer)};
  if (const auto refusal = refusal_of(outlook.data, spec.data)) throw UserError(*refusal);
  const auto sequences = static_cast<double>(outlook.data.sequences(spec.data)),
             sequences_per_step = static_cast<double>(spec.sequences_per_step);
  outlook.step_tokens = spec.sequences_per_step * spec.engine.seq_len;
  if (job.training.max_steps) {
    outlook.steps = *job.training.max_steps;
  } else if (job.training.max_tokens) {
    outlook.steps = ceil_div(*job.training.max_tokens, outlook.step_tokens);
  } else {
    if (is_weighted(spec)) {
      throw_user(
          "training.num_epochs: an epoch has no meaning for weighted sources; use max_steps or "
          "max_tokens");
    }
    outlook.steps = std::max<std::int64_t>(
        1, static_cast<std::int64_t>(
               std::ceil(*job.training.num_epochs * sequences / sequences_per_step)));
  }
  if (!is_weighted(spec))
    outlook.epochs = static_cast<double>(outlook.steps) * sequences_per_step / sequences;
  return outlook;
}

std::string outlook_text(const RunOutlook& outlook, double step_s) {
  const std::string epochs =
      outlook.epochs ? fmt::format(", {}{} epochs", outlook.data.exact() ? "" : "about ",
                                   short_number(*outlook.epochs))
                     : "";
  const double seconds = static_cast<double>(outlook.steps) * step_s;
  const std::string time =
      seconds < 10 ? fmt::format("{:.2g} s", seconds) : format_duration(seconds);
  return fmt::format("data: {}\nrun: {} steps of {} tokens = {} tokens{}; at least {}",
                     outlook.data.text(), outlook.steps, outlook.step_tokens,
                     millions(outlook.tokens()), epochs, time);
}

std::string epochs_warning(const RunOutlook& outlook) {
  if (!outlook.epochs || *outlook.epochs <= kManyEpochs) return {};
  return fmt::format(
      "the job sees its data {:.0f} times, which learns it by heart; training.num_epochs = 3 is "
      "usual for fine-tuning, in place of max_steps or max_tokens",
      *outlook.epochs);
}

}  // namespace thimble
