#include "data/split.h"

#include <algorithm>
#include <cmath>

#include "core/base/error.h"
#include "core/base/random.h"

namespace thimble {
namespace {

constexpr std::int64_t kMaxRanges = 10;

std::int64_t held_out_count(const SplitOptions& options, std::int64_t available, const char* unit,
                            const std::string& where) {
  const double wanted =
      options.val_set_size < 1
          ? std::max(1.0, std::round(options.val_set_size * static_cast<double>(available)))
          : std::floor(options.val_set_size);
  if (wanted >= static_cast<double>(available)) {
    throw_user(
        "{}: data.val_set_size = {} holds out {:.0f} of {} {}; at least one must be left to train",
        where, options.val_set_size, wanted, available, unit);
  }
  return static_cast<std::int64_t>(wanted);
}

std::unique_ptr<SequenceSource> make_sequences(const DocumentSelection& selection,
                                               const SplitOptions& options) {
  if (options.packing && !selection.file().has_prompts()) {
    return std::make_unique<TextSequences>(selection);
  }
  return std::make_unique<SampleSequences>(selection, options.packing, options.train_on_inputs);
}

}  // namespace

std::vector<SequenceRange> held_out_ranges(std::int64_t sequences, std::int64_t held_out,
                                           std::uint64_t seed) {
  TH_CHECK(held_out > 0 && held_out < sequences, "bad number of sequences to hold out");
  const std::int64_t count = std::min(held_out, kMaxRanges);
  const CounterRandom random(seed, RandomPurpose::kSplit, hash_name("rows"));
  std::vector<SequenceRange> ranges;
  std::int64_t begin = 0;
  for (std::int64_t k = 0; k < count; ++k) {
    // Each range has its part of the held-out sequences and stands anywhere inside its part of the
    // training sequences.
    const auto part = [&](std::int64_t whole) {
      return whole * (k + 1) / count - whole * k / count;
    };
    const std::int64_t size = part(held_out);
    const std::int64_t slack = part(sequences - held_out);
    const auto offset = static_cast<std::int64_t>(random.u64(static_cast<std::uint64_t>(k)) %
                                                  static_cast<std::uint64_t>(slack + 1));
    ranges.push_back({begin + offset, begin + offset + size});
    begin += size + slack;
  }
  return ranges;
}

std::vector<SequenceRange> other_ranges(std::int64_t sequences,
                                        const std::vector<SequenceRange>& ranges) {
  std::vector<SequenceRange> others;
  std::int64_t at = 0;
  for (const auto& [begin, end] : ranges) {
    if (at < begin) others.push_back({at, begin});
    at = end;
  }
  if (at < sequences) others.push_back({at, sequences});
  return others;
}

SplitSequences split_sequences(const DocumentSelection& selection, const SplitOptions& options,
                               const std::string& where) {
  const std::int64_t documents = selection.num_used();
  if (options.val_set_size <= 0) return {make_sequences(selection, options), nullptr};
  const bool stream = options.packing && !selection.file().has_prompts();
  if (stream && documents < kMinDocumentsToSplit) {
    const std::int64_t sequences = TextSequences(selection).num_stream_sequences();
    const std::int64_t count = held_out_count(options, sequences, "sequences", where);
    const std::vector<SequenceRange> ranges = held_out_ranges(sequences, count, options.seed);
    return {std::make_unique<TextSequences>(selection, other_ranges(sequences, ranges)),
            std::make_unique<TextSequences>(selection, ranges)};
  }
  const std::int64_t count = held_out_count(options, documents, "samples", where);
  const HoldOut hold_out(selection, options.seed, count);
  return {make_sequences(selection.restricted(hold_out, false), options),
          make_sequences(selection.restricted(hold_out, true), options)};
}

}  // namespace thimble
