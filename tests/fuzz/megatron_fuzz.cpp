// libFuzzer target: any pickle as the file of Megatron-LM's only rank either gives arrays, all of
// whose values can be read, or raises a UserError.
#include <cstdint>

#include "launcher/convert/open_image.h"
#include "tests/fuzz/checkpoint_folder.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace thimble;
  static const CheckpointFolder folder;
  folder.put_torch("mp_rank_00/model_optim_rng.pt", {reinterpret_cast<const char*>(data), size});
  return refuses_or_reads([] { read_all(open_image(folder.path())); });
}
