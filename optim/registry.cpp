#include "optim/registry.h"

#include <algorithm>

#include "optim/adafactor.h"
#include "optim/adam_mini.h"
#include "optim/adamw.h"
#include "optim/apollo.h"
#include "optim/blockwise.h"
#include "optim/fira.h"
#include "optim/frugal.h"
#include "optim/galore.h"
#include "optim/ldadam.h"
#include "optim/momentum.h"
#include "optim/muon.h"
#include "optim/natural_galore.h"
#include "optim/q_galore.h"
#include "optim/scale.h"

namespace thimble {
namespace {

// One line per optimizer; lists and messages have this order.
const std::vector<OptimizerEntry>& all_entries() {
  static const std::vector<OptimizerEntry> kAll{
      kAdamWEntry,         kAdamW8BitEntry, kAdamMiniEntry,    kAdafactorEntry, kApolloEntry,
      kApolloMiniEntry,    kBAdamEntry,     kFiraEntry,        kFrugalEntry,    kGaloreEntry,
      kGalore8BitEntry,    kLdadamEntry,    kLisaEntry,        kLionEntry,      kMuonEntry,
      kNaturalGaloreEntry, kQApolloEntry,   kQApolloMiniEntry, kQGaloreEntry,   kScaleEntry,
      kSgdEntry,
  };
  return kAll;
}

}  // namespace

std::span<const OptimizerEntry> optimizer_entries() {
  return all_entries();
}

const OptimizerEntry* find_optimizer(const std::string& name) {
  const auto entries = optimizer_entries();
  const auto found = std::find_if(entries.begin(), entries.end(),
                                  [&](const OptimizerEntry& e) { return e.name == name; });
  return found == entries.end() ? nullptr : &*found;
}

std::vector<std::string> reads(const OptimizerEntry& entry) {
  std::vector<std::string> names;
  for (OptimizerKey& key : keys_of(entry)) names.push_back(std::move(key.name));
  return names;
}

std::string optimizer_names() {
  std::string names;
  for (const OptimizerEntry& e : optimizer_entries())
    names += (names.empty() ? "" : ", ") + std::string(e.name);
  return names;
}

}  // namespace thimble
