// Writes rntuple_shapes.root with ROOT 6.40: every shape of a field that is read, in 3 cluster groups of 2 clusters of 10 entries,
// pages of at most 64 bytes, and two fields that are added while the file is written.
//
//   g++ -std=c++17 rntuple_shapes.cpp $(root-config --cflags --libs) -lROOTNTuple -o write && ./write rntuple_shapes.root
#include <ROOT/RNTupleModel.hxx>
#include <ROOT/RNTupleWriteOptions.hxx>
#include <ROOT/RNTupleWriter.hxx>

#include <array>
#include <cstdint>
#include <vector>

int main(int, char **argv)
{
   auto model = ROOT::RNTupleModel::Create();
   auto number = model->MakeField<float>("number");
   auto flag = model->MakeField<bool>("flag");
   auto event = model->MakeField<std::int64_t>("event");
   auto list = model->MakeField<std::vector<float>>("list");
   auto lists = model->MakeField<std::vector<std::vector<std::int16_t>>>("lists");
   auto triple = model->MakeField<std::array<double, 3>>("triple");
   auto text = model->MakeField<std::string>("text");
   auto view = std::make_unique<ROOT::RField<std::vector<float>>>("view");
   model->AddProjectedField(std::move(view), [](const std::string &name) { return name == "view" ? "list" : "list._0"; });

   ROOT::RNTupleWriteOptions options;
   options.SetCompression(505);
   options.SetInitialUnzippedPageSize(64);
   options.SetMaxUnzippedPageSize(64);
   auto writer = ROOT::RNTupleWriter::Recreate(std::move(model), "tree", argv[1], options);
   std::shared_ptr<float> lateNumber;
   std::shared_ptr<std::vector<float>> lateList;
   for (int i = 0; i < 60; ++i) {
      if (i == 33) {
         auto updater = writer->CreateModelUpdater();
         updater->BeginUpdate();
         lateNumber = updater->MakeField<float>("late_number");
         lateList = updater->MakeField<std::vector<float>>("late_list");
         updater->CommitUpdate();
      }
      *number = 0.5f * i;
      *flag = i % 3 == 0;
      *event = 9000000000000000000LL + i;
      list->assign(i % 4, 1.25f * i);
      lists->clear();
      for (int k = 0; k < i % 3; ++k)
         lists->emplace_back(k + i % 2, static_cast<std::int16_t>(i - 100 * k));
      *triple = {1. * i, 2. * i, 3. * i};
      *text = "entry";
      if (lateNumber) {
         *lateNumber = 1000.f + i;
         lateList->assign(i % 2 + 1, -1.f * i);
      }
      writer->Fill();
      if (i % 10 == 9)
         writer->CommitCluster(i % 20 == 19);
   }
}
