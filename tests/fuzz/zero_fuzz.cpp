// libFuzzer target: any two pickles as the files of a rank of DeepSpeed's ZeRO either give arrays,
// all of whose values can be read, or raise a UserError. The input's first two bytes say how long
// the first pickle is, that of the model's states.
#include <cstdint>

#include "launcher/convert/open_image.h"
#include "tests/fuzz/checkpoint_folder.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace thimble;
  static const CheckpointFolder folder;
  if (size < 2) return 0;
  const std::string_view pickles(reinterpret_cast<const char*>(data) + 2, size - 2);
  const std::size_t first = std::min<std::size_t>(data[0] + 256u * data[1], pickles.size());
  folder.put_torch("mp_rank_00_model_states.pt", pickles.substr(0, first));
  folder.put_torch("zero_pp_rank_0_mp_rank_00_optim_states.pt", pickles.substr(first));
  return refuses_or_reads([] { read_all(open_image(folder.path())); });
}
