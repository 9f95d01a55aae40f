#include "data/sampler.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "core/base/error.h"
#include "core/base/random.h"

namespace thimble {
namespace {

constexpr int kRounds = 6;
constexpr int kShareBits = 32;

/// floor(count * share / 2^32) without overflow, for share <= 2^32 and count >= 0.
std::int64_t share_of(std::int64_t count, std::uint64_t share) {
  const auto n = static_cast<std::uint64_t>(count);
  const std::uint64_t high = (n >> kShareBits) * share;
  const std::uint64_t low = ((n & 0xFFFFFFFFull) * share) >> kShareBits;
  return static_cast<std::int64_t>(high + low);
}

}  // namespace

SequencePermutation::SequencePermutation(std::int64_t sequences, std::uint64_t seed,
                                         std::uint64_t subject, std::uint64_t epoch)
    : sequences_(static_cast<std::uint64_t>(sequences)) {
  TH_CHECK(sequences >= 1, "a permutation of nothing");
  const CounterRandom random(seed, RandomPurpose::kDataOrder, subject, epoch);
  key_ = random.u64(0);
  half_bits_ = std::max(1, (static_cast<int>(std::bit_width(sequences_ - 1)) + 1) / 2);
}

std::uint64_t SequencePermutation::scramble(std::uint64_t value) const {
  const std::uint64_t mask = (std::uint64_t{1} << half_bits_) - 1;
  std::uint64_t left = value >> half_bits_;
  std::uint64_t right = value & mask;
  for (int round = 0; round < kRounds; ++round) {
    const CounterRandom random(key_, RandomPurpose::kDataOrder, static_cast<std::uint64_t>(round));
    const std::uint64_t mixed = left ^ (random.u64(right) & mask);
    left = right;
    right = mixed;
  }
  return left << half_bits_ | right;
}

std::int64_t SequencePermutation::at(std::int64_t index) const {
  TH_CHECK(index >= 0 && static_cast<std::uint64_t>(index) < sequences_,
           "index outside the permutation");
  std::uint64_t value = static_cast<std::uint64_t>(index);
  do {
    value = scramble(value);
  } while (value >= sequences_);
  return static_cast<std::int64_t>(value);
}

Sampler::Sampler(std::vector<SamplerSource> sources, std::uint64_t seed)
    : sources_(std::move(sources)), seed_(seed) {
  TH_CHECK(!sources_.empty(), "a sampler needs a source");
  double weight_left = 0;
  for (const SamplerSource& source : sources_) {
    TH_CHECK(source.sequences >= 1, "a source without sequences");
    if (!(source.weight > 0) || !std::isfinite(source.weight)) {
      throw_user("data.train: weight = {}; allowed: a number above 0", source.weight);
    }
    first_sequence_.push_back(total_sequences_);
    total_sequences_ += source.sequences;
    weight_left += source.weight;
    weighted_ |= source.weight != 1.0;
  }
  weighted_ &= sources_.size() > 1;
  for (const SamplerSource& source : sources_) {
    const double share = std::clamp(source.weight / weight_left, 0.0, 1.0);
    share_.push_back(static_cast<std::uint64_t>(std::ldexp(share, kShareBits)));
    weight_left -= source.weight;
  }
  share_.back() = std::uint64_t{1} << kShareBits;
}

Sampler::Choice Sampler::choose(std::int64_t global_index) const {
  // Each source in turn takes its share of the places that the sources before it left over: of the
  // first n of them floor(n * share). The place belongs to it if that count grows here.
  std::int64_t index = global_index;
  for (std::size_t s = 0;; ++s) {
    const std::int64_t taken = share_of(index, share_[s]);
    if (share_of(index + 1, share_[s]) > taken) return {s, taken};
    index -= taken;
  }
}

std::int64_t Sampler::sequence_at(std::int64_t global_index) const {
  TH_CHECK(global_index >= 0, "negative place");
  if (!weighted_) {
    const std::int64_t epoch = global_index / total_sequences_;
    return SequencePermutation(total_sequences_, seed_, 0, static_cast<std::uint64_t>(epoch))
        .at(global_index % total_sequences_);
  }
  const Choice choice = choose(global_index);
  const std::int64_t sequences = sources_[choice.source].sequences;
  const SequencePermutation permutation(sequences, seed_, choice.source + 1,
                                        static_cast<std::uint64_t>(choice.index / sequences));
  return first_sequence_[choice.source] + permutation.at(choice.index % sequences);
}

double Sampler::epochs_after(std::int64_t sequences) const {
  return static_cast<double>(sequences) / static_cast<double>(total_sequences_);
}

}  // namespace thimble
