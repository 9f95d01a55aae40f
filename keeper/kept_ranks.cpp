#include "keeper/kept_ranks.h"

#include <algorithm>
#include <map>

#include "core/base/error.h"

namespace thimble {
namespace {

using Whole = KeptRanks::Whole;

std::optional<MomentPlace> place_of(const std::vector<Whole>& all, const Whole& of) {
  MomentPlace place{of.moment, {}};
  for (int rank = 0; rank < of.ranks; ++rank) {
    const auto found = std::find_if(all.begin(), all.end(), [&](const Whole& w) {
      return w.rank == rank && w.ranks == of.ranks && w.moment == of.moment;
    });
    if (found == all.end()) return std::nullopt;
    place.slots.emplace_back(found->kept, found->slot);
  }
  return place;
}

}  // namespace

void KeptRanks::keep(int rank, MemoryFile memory) {
  std::erase_if(kept_, [&](const auto& kept) { return kept->rank == rank && !kept->older; });
  kept_.push_back(std::make_shared<KeptRank>(rank, std::move(memory)));
}

void KeptRanks::make_older() {
  for (const auto& kept : kept_) kept->older = true;
}

void KeptRanks::drop_older() {
  std::erase_if(kept_, [](const auto& kept) { return kept->older; });
}

std::vector<Whole> KeptRanks::whole(std::vector<std::string>& damaged) const {
  std::vector<Whole> found;
  for (const auto& kept : kept_) {
    for (int slot = 0; slot < SnapshotMemory::kSlots; ++slot) {
      try {
        const auto sealed = kept->snapshots.sealed(slot);
        if (!sealed) continue;
        const SnapshotText& text = sealed->text;
        found.push_back({{text.step, text.start}, text.rank, text.ranks, kept, slot});
      } catch (const SystemError& e) {
        damaged.push_back(fmt::format("rank {}: {}", kept->rank, e.what()));
      }
    }
  }
  std::stable_sort(found.begin(), found.end(),
                   [](const Whole& a, const Whole& b) { return a.moment.step > b.moment.step; });
  return found;
}

std::uint64_t KeptRanks::signature() const {
  std::uint64_t all = kept_.size();
  for (const auto& kept : kept_) {
    for (int slot = 0; slot < SnapshotMemory::kSlots; ++slot)
      all = all * 0x9e3779b97f4a7c15 + kept->snapshots.stamp(slot);
  }
  return all;
}

MomentPlace KeptRanks::here(const SnapshotMoment& moment) const {
  std::vector<std::string> told_elsewhere;
  std::map<int, Whole> by_rank;
  for (const Whole& found : whole(told_elsewhere)) {
    if (found.moment == moment) by_rank.emplace(found.rank, found);
  }
  MomentPlace place{moment, {}};
  for (const auto& [rank, found] : by_rank) place.slots.emplace_back(found.kept, found.slot);
  return place;
}

std::optional<MomentPlace> KeptRanks::newest(std::vector<std::string>& damaged) const {
  const std::vector<Whole> all = whole(damaged);
  for (const Whole& found : all) {
    if (auto place = place_of(all, found)) return place;
  }
  return std::nullopt;
}

std::optional<MomentPlace> KeptRanks::find(const SnapshotMoment& moment,
                                           std::vector<std::string>& damaged) const {
  const std::vector<Whole> all = whole(damaged);
  const auto found =
      std::find_if(all.begin(), all.end(), [&](const Whole& w) { return w.moment == moment; });
  return found == all.end() ? std::nullopt : place_of(all, *found);
}

std::vector<SealedSnapshot> snapshots_of(const MomentPlace& place) {
  std::vector<SealedSnapshot> found;
  for (const auto& [kept, slot] : place.slots) {
    auto sealed = kept->snapshots.sealed(slot);
    if (!sealed || sealed->text.step != place.moment.step ||
        sealed->text.start != place.moment.start)
      throw_system("the snapshot of step {} of rank {} is no longer there", place.moment.step,
                   kept->rank);
    found.push_back(std::move(*sealed));
  }
  return found;
}

}  // namespace thimble
