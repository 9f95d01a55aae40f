// The order of sequences: permutations are bijections, places are stateless, shares are kept.
#include "data/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

#include "tests/data/corpus_test_util.h"

namespace thimble {
namespace {

TEST(SequencePermutation, IsABijectionForEverySizeUpTo1000) {
  for (std::int64_t sequences = 1; sequences <= 1000; ++sequences) {
    const SequencePermutation permutation(sequences, 42, 0,
                                          static_cast<std::uint64_t>(sequences % 3));
    std::vector<bool> seen(static_cast<std::size_t>(sequences));
    for (std::int64_t i = 0; i < sequences; ++i) {
      const std::int64_t at = permutation.at(i);
      ASSERT_TRUE(at >= 0 && at < sequences);
      ASSERT_FALSE(seen[static_cast<std::size_t>(at)]) << sequences;
      seen[static_cast<std::size_t>(at)] = true;
    }
  }
}

TEST(SequencePermutation, LooksRandom) {
  // Every place gets every value about equally often over many epochs.
  constexpr std::int64_t kSequences = 7;
  constexpr int kEpochs = 7000;
  std::vector<int> count(kSequences * kSequences);
  for (int epoch = 0; epoch < kEpochs; ++epoch) {
    const SequencePermutation permutation(kSequences, 1, 0, static_cast<std::uint64_t>(epoch));
    for (std::int64_t i = 0; i < kSequences; ++i)
      ++count[static_cast<std::size_t>(i * kSequences + permutation.at(i))];
  }
  for (const int c : count)
    EXPECT_NEAR(c, kEpochs / kSequences, 6 * std::sqrt(kEpochs / kSequences));
}

TEST(SequencePermutation, HugeSizesStayInside) {
  const std::int64_t sequences = std::numeric_limits<std::int64_t>::max() / 2;
  const SequencePermutation permutation(sequences, 3, 0, 0);
  std::set<std::int64_t> seen;
  for (std::int64_t i = 0; i < 1000; ++i) seen.insert(permutation.at(i));
  EXPECT_EQ(seen.size(), 1000u);
  EXPECT_GE(*seen.begin(), 0);
  EXPECT_LT(*seen.rbegin(), sequences);
}

TEST(Sampler, EverySequenceOncePerEpochAndEpochsDiffer) {
  const Sampler sampler({{13, 1.0}, {1, 1.0}, {6, 1.0}}, 5);
  EXPECT_EQ(sampler.sequences_per_epoch(), 20);
  std::vector<std::vector<std::int64_t>> epochs;
  for (std::int64_t epoch = 0; epoch < 3; ++epoch) {
    std::vector<std::int64_t> sequences;
    for (std::int64_t i = 0; i < 20; ++i) sequences.push_back(sampler.sequence_at(epoch * 20 + i));
    epochs.push_back(sequences);
    std::sort(sequences.begin(), sequences.end());
    for (std::int64_t i = 0; i < 20; ++i) EXPECT_EQ(sequences[static_cast<std::size_t>(i)], i);
  }
  EXPECT_NE(epochs[0], epochs[1]);
  EXPECT_NE(epochs[1], epochs[2]);
  EXPECT_NE(
      Sampler({{20, 1.0}}, 6).sequence_at(0) * 400 + Sampler({{20, 1.0}}, 6).sequence_at(1) * 20,
      sampler.sequence_at(0) * 400 + sampler.sequence_at(1) * 20);
}

TEST(Sampler, ResumesAnywhereWithoutState) {
  const std::vector<SamplerSource> sources{{9, 0.5}, {4, 2.0}, {30, 1.0}};
  const Sampler one(sources, 8);
  std::vector<std::int64_t> sequences;
  for (std::int64_t i = 0; i < 500; ++i) sequences.push_back(one.sequence_at(i));
  for (std::int64_t i = 499; i >= 0; --i) {
    EXPECT_EQ(Sampler(sources, 8).sequence_at(i), sequences[static_cast<std::size_t>(i)]);
  }
}

TEST(Sampler, WeightsAreSharesAtEveryLengthAndSourcesAreWalkedWithoutRepeats) {
  const std::vector<double> weights{0.7, 0.1, 3.0, 1.2};
  const std::vector<std::int64_t> sizes{11, 3, 50, 1};
  const std::vector<std::int64_t> first{0, 11, 14, 64};
  std::vector<SamplerSource> sources;
  for (std::size_t s = 0; s < 4; ++s) sources.push_back({sizes[s], weights[s]});
  const Sampler sampler(sources, 1);
  EXPECT_EQ(sampler.sequences_per_epoch(), 0);
  std::vector<std::vector<std::int64_t>> drawn(4);
  for (std::int64_t i = 0; i < 5000; ++i) {
    const std::int64_t sequence = sampler.sequence_at(i);
    const auto s = static_cast<std::size_t>(std::upper_bound(first.begin(), first.end(), sequence) -
                                            first.begin() - 1);
    drawn[s].push_back(sequence - first[s]);
    for (std::size_t k = 0; k < 4; ++k) {
      const double expected = static_cast<double>(i + 1) * weights[k] / 5.0;
      ASSERT_NEAR(static_cast<double>(drawn[k].size()), expected, 2.0) << i;
    }
  }
  for (std::size_t s = 0; s < 4; ++s) {
    const auto size = static_cast<std::size_t>(sizes[s]);
    for (std::size_t begin = 0; begin + size <= drawn[s].size(); begin += size) {
      std::set<std::int64_t> epoch(drawn[s].begin() + static_cast<std::ptrdiff_t>(begin),
                                   drawn[s].begin() + static_cast<std::ptrdiff_t>(begin + size));
      ASSERT_EQ(epoch.size(), size);
    }
  }
}

TEST(Sampler, OneSourceIgnoresItsWeight) {
  EXPECT_EQ(Sampler({{10, 3.0}}, 1).sequences_per_epoch(), 10);
  EXPECT_DOUBLE_EQ(Sampler({{10, 3.0}}, 1).epochs_after(25), 2.5);
}

TEST(Sampler, BadWeightsAreMessages) {
  for (const double weight : {0.0, -1.0, std::nan(""), std::numeric_limits<double>::infinity()}) {
    const std::string message = testing::message_of<UserError>([&] {
      Sampler({{10, weight}, {10, 1.0}}, 1);
    });
    EXPECT_TRUE(message.ends_with("allowed: a number above 0")) << message;
  }
}

}  // namespace
}  // namespace thimble
